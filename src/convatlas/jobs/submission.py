"""Submit runs to SLURM: one run as a job, several as an array job."""

import hashlib
import shlex
import shutil
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from convatlas.config.composition import check_config, compose, overridden_keys
from convatlas.data.module import ImageDataModule
from convatlas.errors import UserError
from convatlas.jobs.slurm import Cluster, Resources, is_queued, job_environment, job_states, sbatch_command, submit
from convatlas.jobs.snapshot import is_checkout, scripts_of, snapshot
from convatlas.record.directory import RunDirectory, now
from convatlas.record.lock import Watch
from convatlas.record.provenance import SOURCE
from convatlas.training.plan import TYPES, plan_run
from convatlas.training.trainer import world_size
from convatlas.utils.files import write_atomic

OPEN = "to be submitted"


def submit_runs(
    common: Sequence[str],
    lines: Sequence[Sequence[str]],
    cluster: Cluster,
    resources: Resources,
    *,
    array: str | None,
    limit: int | None = None,
    dry_run: bool = False,
    opened: MutableMapping[str, ImageDataModule] | None = None,
) -> dict[str, Any]:
    """Submit the runs that are neither finished nor queued nor owned by a process.

    Args:
        common: Overrides of ``train`` for all runs.
        lines: Further overrides of each run.
        cluster: The cluster.
        resources: Resources of each run.
        array: Name of the array job; None submits a single run as a job of its own.
        limit: Largest number of runs of the array that run at once.
        dry_run: Show the job without submitting it.
        opened: Data modules that are already open, as in ``plan_run``.

    Returns:
        ``runs``: for each, ``run`` (the directory), ``state`` (``submitted``, or why it was not) and ``job``;
        ``command``: the sbatch command; ``ranks``; ``log``; ``source``: the snapshot of the code that the job runs.

    Raises:
        UserError: A mistake in the configuration, the data or the resources; no SLURM here, or it refuses.
    """
    common = [*common, *_resource_overrides(common, lines, resources)]
    runs = _plan([[*common, *line] for line in lines], {} if opened is None else opened)
    states = _states(runs, dry_run)
    open_runs = [number for number, state in enumerate(states) if state == OPEN]
    # The attempt that run.fresh=true chose: a requeued job must not choose another.
    lines = [[*line, f"run.attempt={run.attempt}", "run.fresh=false"] for run, line in zip(runs, lines, strict=True)]
    folder = runs[0].path.parent / "slurm"
    arguments, flags = [*common, *lines[0]], {"output": f"{folder}/%j.log", "job_name": runs[0].run_id}
    text = "".join(f"{shlex.join(line)}\n" for line in lines)
    if array is not None:
        list_file = folder / f"runs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
        arguments = [str(list_file), *common]
        flags = {"array": _array(open_runs, limit), "output": f"{folder}/%A_%a.log", "job_name": array}
    to_submit = [] if dry_run else open_runs
    for number in to_submit:
        runs[number].create()  # reports a folder that cannot be written before anything is queued
    source = snapshot(SOURCE, folder / "source") if is_checkout() and to_submit else SOURCE
    script = scripts_of(source) / ("train.sbatch" if array is None else "array.sbatch")
    command = sbatch_command(cluster, resources, script, arguments, **flags)
    jobs: dict[int, str] = {}
    if to_submit:
        folder.mkdir(parents=True, exist_ok=True)
        if array is not None:
            write_atomic(list_file, text)
        job = submit(command, job_environment(cluster, resources, source, script.parent))
        jobs = {number: job if array is None else f"{job}_{number + 1}" for number in to_submit}
    for number, job in jobs.items():
        runs[number].add_job(job=job, submitted=now(), command=shlex.join(command), source=str(source))
    entries = [
        {"run": str(run.path), "state": "submitted" if number in jobs else state, "job": jobs.get(number)}
        for number, (run, state) in enumerate(zip(runs, states, strict=True))
    ]
    return {
        "runs": entries,
        "command": shlex.join(command),
        "ranks": f"{resources.nodes} × {resources.tasks_per_node}",
        "log": flags["output"],
        "source": str(source) if is_checkout() else "as it is when the job starts: this is no git checkout",
    }


def _resource_overrides(common: Sequence[str], lines: Sequence[Sequence[str]], resources: Resources) -> list[str]:
    """The overrides of ``train`` that follow from the resources of the job."""
    for key in ("accelerator", "devices", "num_nodes"):
        if f"trainer.{key}" in overridden_keys([*common, *(item for line in lines for item in line)]):
            raise UserError(f"trainer.{key}: leave it out; resources=… sets it")
    overrides = [f"trainer.{key}={value}" for key, value in resources.trainer.items()]
    if "data.threads" not in overridden_keys(common):
        overrides.append(f"data.threads={resources.cpus_per_task}")
    return overrides


def _array(numbers: Sequence[int], limit: int | None) -> str:
    """The value of ``--array`` for the lines with these numbers, which SLURM counts from 1."""
    text = ",".join(str(number + 1) for number in numbers)
    return text if limit is None else f"{text}%{limit}"


def _plan(lines: Sequence[Sequence[str]], opened: MutableMapping[str, ImageDataModule]) -> list[RunDirectory]:
    """Check the overrides of each run and find its directory."""
    runs = []
    for line in lines:
        config = compose("train", line)
        check_config(config, TYPES)
        run, data = plan_run(config, opened)
        data.check_batch(world_size(config.trainer), config.trainer.accumulate_grad_batches)
        runs.append(run)
    if len({run.path for run in runs}) < len(runs):
        raise UserError("runs: two lines are the same run; expected different ones")
    return runs


def _states(runs: Sequence[RunDirectory], dry_run: bool) -> list[str]:
    """For each run, ``OPEN`` or the reason why it is not submitted."""
    ask = not dry_run or shutil.which("squeue") is not None
    slurm = job_states([entry["job"] for run in runs for entry in run.jobs]) if ask else {}
    states = [_state(run, slurm) for run in runs]
    watch, locks = Watch(), [run.lock for run in runs]
    watch.settle(lock for lock, state in zip(locks, states, strict=True) if state == OPEN)
    owners = [watch.owner(lock) if state == OPEN else None for lock, state in zip(locks, states, strict=True)]
    return [f"owned by {owner}" if owner else state for owner, state in zip(owners, states, strict=True)]


def _state(run: RunDirectory, slurm: Mapping[str, str]) -> str:
    if run.finished:
        return "finished already"
    queued = [entry["job"] for entry in run.jobs if is_queued(slurm.get(entry["job"]))]
    return f"queued already as job {queued[0]}" if queued else OPEN
