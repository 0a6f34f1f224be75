"""The workers of a sweep on a SLURM cluster: each is a task of an array."""

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
    """Submit as many workers as are not queued yet and do not run.

    Args:
        cluster: The cluster.
        resources: What each worker, and so each training, gets.
        directory: The sweep's.
        overrides: Of every training, beside the sweep's own.
        workers: How many there are to be.

    Returns:
        The jobs of all workers that wait or run now.

    Raises:
        UserError: There is no SLURM here, or it refuses the jobs.
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
