"""SLURM: the resources of a job, its submission, and its state."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from convatlas.errors import UserError

QUEUED = ("PENDING", "RUNNING", "REQUEUED", "REQUEUE_HOLD", "CONFIGURING", "SUSPENDED", "COMPLETING", "STOPPED")
"""States of a job that waits or runs."""


@dataclass(frozen=True)
class Resources:
    """The resources of a job. One rank is one task; a GPU job has one task for each GPU.

    Args:
        nodes: Number of nodes.
        gpus_per_node: Number of GPUs on each node; 0 trains on CPUs.
        tasks_per_node: Number of ranks on each node.
        cpus_per_task: Number of CPU cores of each rank, used as threads of the loader.
        memory: Memory of each node in SLURM's notation, such as ``64G``, or in MiB; None is the cluster's default.
        time: Time limit in SLURM's notation, such as ``24:00:00``, or in minutes; a longer run is requeued and resumes.

    Raises:
        UserError: A GPU job whose number of ranks differs from its number of GPUs.
    """

    nodes: PositiveInt
    gpus_per_node: NonNegativeInt
    tasks_per_node: PositiveInt
    cpus_per_task: PositiveInt
    memory: str | int | None
    time: str | int

    def __post_init__(self) -> None:
        if self.gpus_per_node not in (0, self.tasks_per_node):
            raise UserError(
                f"resources.tasks_per_node={self.tasks_per_node}: expected resources.gpus_per_node="
                f"{self.gpus_per_node}, one rank for each GPU"
            )

    @property
    def trainer(self) -> dict[str, str | int]:
        """The arguments of the Trainer for these resources."""
        accelerator = "gpu" if self.gpus_per_node else "cpu"
        return {"accelerator": accelerator, "devices": self.tasks_per_node, "num_nodes": self.nodes}

    @property
    def flags(self) -> dict[str, str | int | None]:
        """The flags of sbatch for these resources."""
        return {
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "cpus-per-task": self.cpus_per_task,
            "gpus-per-node": self.gpus_per_node or None,
            "mem": self.memory,
            "time": self.time,
        }


@dataclass(frozen=True)
class Cluster:
    """The settings of a cluster.

    Args:
        sbatch: Further flags of sbatch by their long names: ``partition``, ``account``, ``qos``, ``constraint`` …;
            null omits a flag, true gives a flag without a value.
        environment: Variables of the job.
        signal_seconds: Seconds before the time limit at which SLURM tells the run to save a checkpoint.
    """

    sbatch: Mapping[str, str | int | bool | None]
    environment: Mapping[str, str | int] = field(default_factory=dict)
    signal_seconds: PositiveInt = 120


def sbatch_command(
    cluster: Cluster, resources: Resources, script: Path, arguments: Sequence[str], **flags: str | int | None
) -> list[str]:
    """The command that submits a job.

    Args:
        cluster: The cluster.
        resources: The resources of the job.
        script: The batch script.
        arguments: The script's arguments.
        flags: Further flags of sbatch, with underscores.
    """
    all_flags = {
        **resources.flags,
        "signal": f"USR1@{cluster.signal_seconds}",
        "export": "ALL",  # independent of the site's default
        **{name.replace("_", "-"): value for name, value in flags.items()},
        **cluster.sbatch,
    }
    given = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in all_flags.items()
        if value is not None and value is not False
    ]
    return ["sbatch", "--parsable", *given, str(script), *arguments]


def job_environment(cluster: Cluster, resources: Resources, source: Path, scripts: Path) -> dict[str, str]:
    """The variables of a job that runs our code.

    Args:
        cluster: The cluster, whose own variables come last.
        resources: The resources of the job.
        source: The code: a checkout, its snapshot, or the folder of the installed package.
        scripts: The folder of the batch scripts.
    """
    path = [str(source / "src"), os.environ.get("PYTHONPATH", "")] if (source / "src").is_dir() else []
    return {
        "CONVATLAS_PYTHON": sys.executable,
        "CONVATLAS_SLURM": str(scripts),
        "OMP_NUM_THREADS": str(resources.cpus_per_task),
        **({"PYTHONPATH": os.pathsep.join(filter(None, path))} if path else {}),
        **{name: str(value) for name, value in cluster.environment.items()},
    }


def submit(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a job.

    Args:
        command: From ``sbatch_command``.
        environment: Variables that the job gets in addition to those of this process. SLURM's variables of a job in
            which this process runs are removed, because they would affect srun in the new job.

    Returns:
        The number of the job.

    Raises:
        UserError: There is no SLURM here, or it refuses the job.
    """
    own = {name: value for name, value in os.environ.items() if name == "SLURM_CONF" or not name.startswith("SLURM_")}
    done = _run(command, {**own, **environment})
    if done.returncode:
        raise UserError(f"sbatch refused the job ({' '.join(done.stderr.split())}): {shlex.join(command)}")
    return done.stdout.strip().partition(";")[0]


def job_states(jobs: Sequence[str]) -> dict[str, str]:
    """Ask SLURM for the states of jobs: ``RUNNING``, ``TIMEOUT``, or ``PENDING (Resources)`` with the reason.

    Args:
        jobs: Job numbers; the task of an array is ``12_3``.

    Returns:
        The states of the jobs that SLURM still knows. Its queue forgets a job some minutes after its end; its
        accounting, if the cluster has one, does not.

    Raises:
        UserError: There is no SLURM here, or it does not answer.
    """
    if not jobs:
        return {}
    listing = ["squeue", f"--jobs={','.join(jobs)}", "--noheader", "--array", "--states=all", "--format=%i|%T|%r"]
    done = _run(listing, os.environ)
    if done.returncode and "Invalid job id specified" not in done.stderr:  # SLURM has forgotten the one job
        raise UserError(f"squeue failed ({' '.join(done.stderr.split())})")
    states = {}
    for line in done.stdout.splitlines():
        job, state, reason = line.split("|")
        waits = state == "PENDING" and reason != "None"
        states[job] = f"{state} ({reason})" if waits else state
    forgotten = [job for job in jobs if job not in states]
    if forgotten and shutil.which("sacct"):
        command = ["sacct", "-X", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(forgotten)}"]
        done = _run(command, os.environ)  # fails on a cluster without accounting
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        states.update((job, state.split()[0]) for job, state in (line.split("|") for line in lines))  # CANCELLED by …
    return {job: states[job] for job in jobs if job in states}


def is_queued(state: str | None) -> bool:
    """Whether a state of ``job_states`` is that of a job that waits or runs."""
    return state is not None and state.startswith(QUEUED)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    if shutil.which(command[0]) is None:
        raise UserError(f"{command[0]} is not on PATH: run this command on a login node of a SLURM cluster")
    return subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
