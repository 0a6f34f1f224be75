"""Run commands that train or evaluate, so many at a time; a signal ends them, and each saves itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from convatlas.errors import TrainingFailedError, UserError
from convatlas.jobs.launch import end, start, train_command
from convatlas.record.directory import RunDirectory
from convatlas.training.callbacks.stopping import EXIT_STATUS, Preempted
from convatlas.utils.cores import usable_cores

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
POLL_SECONDS = 0.2
ERROR = "convatlas: error: "
"""How our command line begins the line that says why it fails."""


@dataclass(frozen=True)
class Command:
    """A command that trains or evaluates.

    Attributes:
        name: What it is called in messages.
        words: The command line.
        log: Where its output goes.
        environment: Names and values of variables beside those of this process.
    """

    name: str
    words: tuple[str, ...]
    log: Path
    environment: tuple[tuple[str, str], ...] = ()


def run_commands(commands: Sequence[Command], num_workers: int, ended: Callable[[Command, int], None]) -> None:
    """Run commands in their order, so many at a time. One that fails does not stop the others.

    Args:
        commands: The commands.
        num_workers: How many at a time. Several share the cores, unless ``OMP_NUM_THREADS`` says how many each has.
        ended: Is told each command that ended, and its status.

    Raises:
        Preempted: SIGINT, SIGTERM or SIGUSR1 came. The commands were sent SIGTERM, which lets trainings save
            themselves, and have ended; a second signal kills them.
    """
    received: list[signal.Signals] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))

    threads = str(max(1, usable_cores() // num_workers))
    shared = {} if num_workers == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
    before = {number: signal.signal(number, receive) for number in SIGNALS}
    waiting, running, told = list(commands), dict[Command, subprocess.Popen[bytes]](), 0
    try:
        while running or (waiting and not received):
            while waiting and len(running) < num_workers and not received:
                command = waiting.pop(0)
                running[command] = start(command.words, command.log, {**shared, **dict(command.environment)})
            if told < len(received):
                what = "ends what runs" if told else f"waits for {len(running)} to save themselves"
                sys.stderr.write(f"convatlas: {received[-1].name}: {what}; the same command goes on\n")
                for process in running.values():
                    end(process, signal.SIGKILL if told else signal.SIGTERM)
                told = len(received)
            time.sleep(POLL_SECONDS)
            for command, process in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[command]
                    if not received:
                        ended(command, status)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise Preempted(received[0].name)


def run_training(
    run: RunDirectory, overrides: Sequence[str], ranks: int = 1, environment: Mapping[str, str] | None = None
) -> None:
    """Train a run and wait for its end; its output goes to ``reproduce/<run_id>.log`` in the folder of the runs.

    Args:
        run: What the overrides make.
        overrides: As in ``train_command``.
        ranks: As in ``train_command``.
        environment: Variables beside those of this process.

    Raises:
        UserError: The training refused the overrides or the data before the run began.
        TrainingFailedError: It failed for another reason, or later: its loss diverged, an image cannot be decoded.
        Preempted: A signal came, as in ``run_commands``, or was sent to the training itself.
    """
    log = run.path.parent / "reproduce" / f"{run.run_id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"convatlas: {run.path} trains, its output goes to {log}\n")
    before, written = run.summary, log.stat().st_size if log.exists() else 0
    words, variables = tuple(train_command(overrides, ranks)), tuple((environment or {}).items())
    statuses: list[int] = []
    run_commands([Command(run.run_id, words, log, variables)], 1, lambda _, status: statuses.append(status))
    (status,) = statuses
    if status == EXIT_STATUS:
        raise Preempted("another process")
    if status == UserError.status and run.summary == before:  # a run that begins and fails says so in its summary
        raise UserError(_reason(log, written))
    if status:
        reason = _reason(log, written)
        raise TrainingFailedError(f"{run.path}: the training failed with status {status} ({log}): {reason}")


def _reason(log: Path, start: int) -> str:
    """Why a training ended: what our command line said last, else the last line of all, from a byte of its log on."""
    said = log.read_bytes()[start:].decode(errors="replace")
    lines = [line for line in said.splitlines() if line.strip()]
    ours = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (ours or lines or ["it said nothing"])[-1]
