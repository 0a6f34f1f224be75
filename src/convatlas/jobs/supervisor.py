"""Run commands that train or evaluate, a limited number at a time, and pass stop signals on to them."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from convatlas.errors import TrainingFailedError, UserError
from convatlas.jobs.launch import end, start, train_command
from convatlas.record.directory import RunDirectory
from convatlas.utils.cores import usable_cores
from convatlas.utils.signals import EXIT_STATUS, Preempted, StopFlag

POLL_SECONDS = 0.2
ERROR = "convatlas: error: "
"""Start of the line in which our command line reports its failure."""


@dataclass(frozen=True)
class Command:
    """A command that trains or evaluates.

    Attributes:
        name: Name in messages.
        words: The command line.
        log: File that its output is appended to; None is this process's standard error.
        environment: Names and values of variables that it gets in addition to those of this process.
        die_with_parent: End it with SIGTERM when this process dies (Linux).
        keep: Open files that it inherits.
    """

    name: str
    words: tuple[str, ...]
    log: Path | None = None
    environment: tuple[tuple[str, str], ...] = ()
    die_with_parent: bool = False
    keep: tuple[int, ...] = ()


def run_commands(
    commands: Sequence[Command],
    num_workers: int,
    ended: Callable[[Command, int], object],
    *,
    max_restarts: int = 0,
    share_cores: bool = False,
) -> None:
    """Run commands in their order, a limited number at a time. One that fails does not stop the others.

    Args:
        commands: The commands.
        num_workers: Number of commands that run at the same time.
        ended: Called with each command that has ended and its exit status.
        max_restarts: How often each command is started again after SIGKILL.
        share_cores: Divide the cores between the commands by ``OMP_NUM_THREADS``, unless the user has set it.

    Raises:
        Preempted: SIGINT, SIGTERM or SIGUSR1 arrived. The commands received SIGTERM, at which trainings save a
            checkpoint, and have ended; a second signal kills them.
    """
    threads = str(max(1, usable_cores() // num_workers))
    shared = {"OMP_NUM_THREADS": threads} if share_cores and "OMP_NUM_THREADS" not in os.environ else {}
    stop, restarts = StopFlag(), Counter[Command]()
    waiting, running, told = list(commands), dict[Command, subprocess.Popen[bytes]](), 0
    stop.listen()
    try:
        while running or (waiting and not stop.received):
            while waiting and len(running) < num_workers and not stop.received:
                command = waiting.pop(0)
                variables = {**shared, **dict(command.environment)}
                running[command] = start(command.words, command.log, variables, command.die_with_parent, command.keep)
            if told < len(stop.received):
                what = f"killing {len(running)}" if told else f"waiting for {len(running)} to stop"
                sys.stderr.write(f"convatlas: {stop.received[-1].name}: {what}; the same command continues\n")
                for process in running.values():
                    end(process, signal.SIGKILL if told else signal.SIGTERM)
                told = len(stop.received)
            time.sleep(POLL_SECONDS)
            for command, process in list(running.items()):
                if (status := process.poll()) is not None:
                    del running[command]
                    if stop.received:
                        continue
                    if status == -signal.SIGKILL and restarts[command] < max_restarts:
                        restarts[command] += 1
                        sys.stderr.write(f"convatlas: {command.name} was killed; starting it again\n")
                        waiting.insert(0, command)
                    else:
                        ended(command, status)
    finally:
        stop.restore()
    if stop.received:
        raise Preempted(stop.received[0].name)


def run_training(
    run: RunDirectory, overrides: Sequence[str], ranks: int = 1, environment: Mapping[str, str] | None = None
) -> None:
    """Train a run and wait for its end; the output goes to ``reproduce/<run_id>.log`` in the folder of the runs.

    Args:
        run: The run that the overrides describe.
        overrides: As in ``train_command``.
        ranks: As in ``train_command``.
        environment: Variables that the training gets in addition to those of this process.

    Raises:
        UserError: The training refused the overrides or the data before the run began.
        TrainingFailedError: It failed later or for another reason: the loss diverged, an image cannot be decoded.
        Preempted: This process, as in ``run_commands``, or the training itself received a signal.
    """
    log = run.path.parent / "reproduce" / f"{run.run_id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"convatlas: training {run.path}; log: {log}\n")
    before, written = run.summary, log.stat().st_size if log.exists() else 0
    words, variables = tuple(train_command(overrides, ranks)), tuple((environment or {}).items())
    statuses: list[int] = []
    run_commands([Command(run.run_id, words, log, variables)], 1, lambda _, status: statuses.append(status))
    (status,) = statuses
    if status == EXIT_STATUS:
        raise Preempted("another process")
    reason = failure_message(output_since(log, written)) or "it printed nothing"
    if status == UserError.status and run.summary == before:  # a run that has begun records its failure in the summary
        raise UserError(reason)
    if status:
        raise TrainingFailedError(f"{run.path}: the training failed with status {status} ({log}): {reason}")


def output_since(log: Path, start: int) -> str:
    """Read a log from a byte on."""
    with log.open(encoding="utf-8", errors="replace") as file:
        file.seek(start)
        return file.read()


def failure_message(output: str) -> str:
    """Find why a command failed in its output: the last error of our command line, otherwise the last line."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (errors or lines or [""])[-1]
