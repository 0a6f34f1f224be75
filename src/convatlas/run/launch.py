"""Trainings that another command starts: each is a process group of its own, so that its end is its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path


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
        environment: Variables beside those of this process.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to all processes that a command started, unless they have ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
