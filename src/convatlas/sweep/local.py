"""Run the workers of a sweep on this machine."""

import fcntl
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from convatlas.errors import ReportedError, UserError
from convatlas.jobs.slurm import Resources
from convatlas.jobs.supervisor import Command, run_commands
from convatlas.utils.signals import EXIT_STATUS, Preempted


class WorkersEndedError(ReportedError):
    """Workers ended although trials are left."""

    status = 1


def work_here(
    resources: Resources | None,
    directory: Path,
    overrides: Sequence[str],
    workers: int,
    retries: int,
    finished: Callable[[], bool],
) -> None:
    """Run workers and wait for them. A worker that is killed is started again.

    Args:
        resources: The resources of each training; None: one process on the devices that the Trainer finds.
        directory: The directory of the sweep.
        overrides: Overrides of every training, in addition to those of the sweep.
        workers: Number of workers.
        retries: How often each worker is started again.
        finished: Whether all trials have ended. If so, the exit statuses of the workers do not matter.

    Raises:
        Preempted: This process or a worker was told to stop; all workers have ended.
        UserError: The resources are not available, or a worker reported a mistake.
        WorkersEndedError: A worker failed.
    """
    if resources is not None and resources.nodes > 1:
        raise UserError(f"resources.nodes={resources.nodes}: expected 1 on this machine; cluster=NAME has more")
    ranks = resources.tasks_per_node if resources else 1
    variables, gpus = _environments(resources, directory / "workers", workers)
    base = [sys.executable, "-m", "convatlas.sweep", f"--ranks={ranks}", str(directory)]
    names = [f"{platform.node()}-{os.getpid()}-{number}" for number in range(workers)]
    commands = [
        Command(name, (*base, name, *overrides), None, tuple(own.items()), True, tuple(locked))
        for name, own, locked in zip(names, variables, gpus, strict=True)
    ]
    statuses: set[int] = set()
    try:
        run_commands(commands, workers, lambda _, status: statuses.add(status), max_restarts=retries)
    except Preempted:
        statuses = {EXIT_STATUS}
    finally:
        for file in (file for locked in gpus for file in locked):
            os.close(file)
    if finished():
        return
    if UserError.status in statuses:
        raise UserError("a worker reported a mistake; see its message above")
    if EXIT_STATUS in statuses:
        raise Preempted("a worker")
    if failures := statuses - {0}:
        raise WorkersEndedError(f"a worker ended with status {min(failures)}; the same command continues the sweep")


def _environments(
    resources: Resources | None, folder: Path, workers: int
) -> tuple[list[dict[str, str]], list[list[int]]]:
    """The environment variables of each worker, for its own cores and GPUs, and the open files that lock its GPUs."""
    if resources is None:
        return [{}] * workers, [[]] * workers
    threads = {"OMP_NUM_THREADS": str(resources.cpus_per_task)}
    if not (each := resources.gpus_per_node):
        return [threads] * workers, [[]] * workers
    free = _free_gpus(folder)
    if len(free) < workers * each:
        raise UserError(
            f"num_workers={workers}: expected no more than there are GPUs for: they need {workers * each}, and "
            f"{len(free)} of this machine are free of other workers of the sweep"
        )
    for file in list(free.values())[workers * each :]:
        os.close(file)
    shares = [list(free.items())[number * each : (number + 1) * each] for number in range(workers)]
    variables = [threads | {"CUDA_VISIBLE_DEVICES": ",".join(gpu for gpu, _ in share)} for share in shares]
    return variables, [[file for _, file in share] for share in shares]


def _free_gpus(folder: Path) -> dict[str, int]:
    """Lock the GPUs that no worker of the sweep uses; return the open lock file of each."""
    visible, available = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    names = visible.split(",")[:available] if visible else [str(gpu) for gpu in range(available)]
    folder.mkdir(exist_ok=True)
    free = {}
    for name in names:
        file = os.open(folder / f".gpu-{platform.node()}-{name}", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
        else:
            free[name] = file
    return free
