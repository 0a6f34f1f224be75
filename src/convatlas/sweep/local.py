"""The workers of a sweep on this machine."""

import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from convatlas.errors import ReportedError, UserError
from convatlas.run.launch import end, start
from convatlas.run.slurm import Resources
from convatlas.sweep.worker import EXIT_STATUS, StopFlag

POLL_SECONDS = 0.2
"""How often workers are looked at."""


class WorkersEndedError(ReportedError):
    """Workers ended with trials left."""

    status = 1


def work_here(
    resources: Resources | None, directory: Path, overrides: Sequence[str], workers: int, retries: int
) -> None:
    """Run workers and wait for them; one that is killed is started again.

    Args:
        resources: What each training gets; None: one process, on what the Trainer finds.
        directory: The sweep's.
        overrides: Of every training, beside the sweep's own.
        workers: How many there are to be.
        retries: How often each is started again.

    Raises:
        SystemExit: With status 75: this process, or a worker, was told to stop, and all have.
        UserError: The resources are not there; a worker found a mistake, and said which.
        WorkersEndedError: A worker failed.
    """
    if resources is not None and resources.nodes > 1:
        raise UserError(f"resources.nodes={resources.nodes}: expected 1 on this machine; cluster=NAME has more")
    ranks = resources.tasks_per_node if resources else 1
    environments = [_environment(resources, number) for number in range(workers)]
    base = [sys.executable, "-m", "convatlas.sweep", f"--ranks={ranks}", str(directory)]
    names = [f"{platform.node()}-{os.getpid()}-{number}" for number in range(workers)]
    commands = [[*base, name, *overrides] for name in names]
    stop = StopFlag()
    stop.listen()
    left = [retries] * len(commands)
    processes = [
        start(command, None, environment, True) for command, environment in zip(commands, environments, strict=True)
    ]
    told = False
    while any(process.poll() is None for process in processes):
        time.sleep(POLL_SECONDS)
        if stop.received and not told:
            told = True
            for process in processes:
                end(process, signal.SIGTERM)
        for number, process in enumerate(processes):
            if not told and process.poll() == -signal.SIGKILL and left[number]:
                left[number] -= 1
                sys.stderr.write(f"convatlas: worker {number} was killed; another takes its trial up\n")
                processes[number] = start(commands[number], None, environments[number], True)
    statuses = {process.returncode for process in processes}
    if EXIT_STATUS in statuses or told:
        sys.stderr.write("convatlas: stopped; the same command goes on with the sweep\n")
        raise SystemExit(EXIT_STATUS)
    if UserError.status in statuses:
        raise UserError("a worker has found a mistake; its message is above")
    if statuses != {0}:
        raise WorkersEndedError(f"a worker ended with status {max(statuses)}; the same command goes on with the sweep")


def _environment(resources: Resources | None, number: int) -> dict[str, str]:
    """The variables of a worker: its cores, and GPUs of its own."""
    if resources is None:
        return {}
    threads = {"OMP_NUM_THREADS": str(resources.cpus_per_task)}
    if not resources.gpus_per_node:
        return threads
    per_worker, available = resources.gpus_per_node, torch.cuda.device_count()
    last = (number + 1) * per_worker
    if last > available:
        raise UserError(f"num_workers: worker {number + 1} would need {last} GPUs, this machine shows {available}")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(gpu) for gpu in range(available)]
    return threads | {"CUDA_VISIBLE_DEVICES": ",".join(names[last - per_worker : last])}
