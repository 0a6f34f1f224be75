"""Submit the workers of a sweep to a SLURM cluster, as the tasks of an array."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from convatlas.jobs.slurm import (
    Cluster,
    Resources,
    is_queued,
    job_environment,
    job_states,
    sbatch_command,
    submit,
)
from convatlas.jobs.snapshot import is_checkout, scripts_of, snapshot
from convatlas.record.directory import RunDirectory, now
from convatlas.record.provenance import SOURCE


def submit_workers(
    cluster: Cluster, resources: Resources, directory: Path, overrides: Sequence[str], workers: int
) -> list[str]:
    """Submit the workers that are neither queued nor running.

    Args:
        cluster: The cluster.
        resources: The resources of each worker, and so of each training.
        directory: The directory of the sweep.
        overrides: Overrides of every training, in addition to those of the sweep.
        workers: Number of workers wanted.

    Returns:
        The jobs of all workers that are queued or running.

    Raises:
        UserError: SLURM is not available, or it refuses the jobs.
    """
    book = RunDirectory(directory)
    states = job_states([entry["job"] for entry in book.jobs])
    queued = [job for job, state in states.items() if is_queued(state)]
    missing = workers - len(queued)
    if missing <= 0:
        return queued
    logs = directory / "logs"
    logs.mkdir(exist_ok=True)
    source = snapshot(SOURCE, directory / "source") if is_checkout() else SOURCE
    scripts = scripts_of(source)
    command = sbatch_command(
        cluster,
        resources,
        scripts / "sweep.sbatch",
        [str(directory), *overrides],
        array=f"1-{missing}",
        output=f"{logs}/%A_%a.log",
        job_name=directory.name,
        signal=f"B:USR1@{cluster.signal_seconds}",  # to the batch shell, where the worker is
    )
    array = submit(command, job_environment(cluster, resources, source, scripts))
    jobs = [f"{array}_{number + 1}" for number in range(missing)]
    for job in jobs:
        book.add_job(job=job, submitted=now(), command=shlex.join(command), source=str(source))
    return queued + jobs
