"""Trainings that another command starts: each is a process group of its own, so that its end is its own."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""Linux: the signal that a process gets when the one that started it has died (man 2 prctl)."""


def train_command(overrides: Sequence[str], ranks: int = 1) -> list[str]:
    """The command that trains on this machine.

    Args:
        overrides: What would follow ``convatlas train``.
        ranks: Processes of the run; more than one are started by torchrun.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "convatlas", "train", *overrides]


def srun_command(overrides: Sequence[str]) -> list[str]:
    """The command that trains on all nodes of the SLURM job that it is given in, one rank for each of its tasks.

    Args:
        overrides: What would follow ``convatlas train``.
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
    """Start a command in a process group of its own, its output appended to a file.

    Args:
        command: From ``train_command``.
        log: Where standard output and error go; its folder exists. None: to this process's standard error.
        environment: Variables beside those of this process.
        die_with_parent: End it with SIGTERM when the thread that calls this dies, by whatever (Linux).
        keep: Open files that it is to have open, too: what is locked stays so while it lives.
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
            # Between fork and exec one system call is made, and no lock of this process is asked for.
            preexec_fn=prctl and (lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))),
        )
    finally:
        os.close(output)


def end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to all processes that a command started, unless they have ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
