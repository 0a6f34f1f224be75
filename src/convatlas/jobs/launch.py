"""Start commands, each in its own process group, so that it can be signalled alone."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""Option of prctl(2) on Linux: the signal that a process gets when its parent dies."""


def train_command(overrides: Sequence[str], ranks: int = 1) -> list[str]:
    """The command that trains on this machine.

    Args:
        overrides: Arguments of ``convatlas train``.
        ranks: Number of ranks; torchrun starts more than one.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "convatlas", "train", *overrides]


def srun_command(overrides: Sequence[str]) -> list[str]:
    """The command that trains on all nodes of the present SLURM job, one rank for each task.

    Args:
        overrides: Arguments of ``convatlas train``.
    """
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    flags = ["--kill-on-bad-exit=1", *([f"--cpus-per-task={cpus}"] if cpus else [])]
    return ["srun", *flags, *train_command(overrides)]


def start(
    command: Sequence[str],
    log: Path | None,
    environment: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
    keep: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Start a command in its own process group and append its output to a file.

    Args:
        command: The command line.
        log: File for standard output and error, in an existing folder; None is this process's standard error.
        environment: Variables that it gets in addition to those of this process.
        die_with_parent: End it with SIGTERM when the calling thread dies, for any reason (Linux).
        keep: Open files that it inherits; their locks hold while it lives.
    """
    prctl = ctypes.CDLL(None).prctl if die_with_parent and sys.platform == "linux" else None
    output = os.dup(2) if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
            pass_fds=keep,
            # Between fork and exec this makes one system call and takes no lock of this process.
            preexec_fn=prctl and (lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))),
        )
    finally:
        os.close(output)


def end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the process group of a command, unless the command has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
