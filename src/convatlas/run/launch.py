"""Trainings that another command starts: each is a process group of its own, so that its end is its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from convatlas.errors import TrainingFailedError, UserError
from convatlas.run.stopping import EXIT_STATUS, Preempted

ERROR = "convatlas: error: "
"""How our command line begins the line that says why it fails."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that tell a command, and so what it has started, to stop."""


def train_command(overrides: Sequence[str], ranks: int = 1) -> list[str]:
    """The command that trains on this machine.

    Args:
        overrides: What would follow ``convatlas train``.
        ranks: Processes of the run; more than one are started by torchrun.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "convatlas", "train", *overrides]


def start(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start a command in a process group of its own, its output appended to a file.

    Args:
        command: From ``train_command``.
        log: Where standard output and error go; its folder exists.
        environment: Variables of the command beside those of this process.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )


def end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to all processes that a command started, unless they have ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def train_to_end(
    overrides: Sequence[str], log: Path, ranks: int = 1, environment: Mapping[str, str] | None = None
) -> None:
    """Train in a process group of its own and wait; what tells this process to stop is passed on as SIGTERM.

    Args:
        overrides: As in ``train_command``.
        log: Where its output goes; the folder is made.
        ranks: As in ``train_command``.
        environment: As in ``start``.

    Raises:
        UserError: The training refused the overrides or the data.
        TrainingFailedError: It failed for another reason.
        Preempted: It was told to stop, and did; the same overrides go on with it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    received: list[signal.Signals] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        if process is not None:
            end(process, signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in PASSED_ON}
    try:
        process = start(train_command(overrides, ranks), log, environment)
        if received:  # while it was being started
            end(process, signal.SIGTERM)
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received or status == EXIT_STATUS:
        raise Preempted(received[0].name if received else "another process")
    if status == UserError.status:
        raise UserError(_reason(log))
    if status:
        raise TrainingFailedError(f"a training failed with status {status}, its output is in {log}: {_reason(log)}")


def _reason(log: Path) -> str:
    """Why a training ended: what our command line said last, else the last line of all."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    ours = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (ours or lines or ["it said nothing"])[-1]
