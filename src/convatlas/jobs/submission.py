"""Submit runs to SLURM: as one job, or as an array of those that are open."""

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
    """Submit runs that are neither finished nor queued nor owned by a process.

    Args:
        common: Overrides of ``train`` that belong to all runs.
        lines: The further overrides of each run.
        cluster: Where it is submitted.
        resources: What each run gets.
        array: The name of the array that the runs become; None submits a single run as a job of its own.
        limit: Runs of the array that go on at once, at most.
        dry_run: Show the job, submit nothing.
        opened: Images that were opened before, as in ``plan_run``.

    Returns:
        ``runs``: for each, ``run`` (the directory), ``state`` (``submitted``, or why it was not) and ``job``;
        ``command``: that of sbatch; ``ranks``; ``log``; ``source``: the snapshot that the job runs.

    Raises:
        UserError: A mistake in the configuration, the data or the resources; no SLURM here, or it refuses.
    """
    common = list(common)
    for key in ("accelerator", "devices", "num_nodes"):
        if f"trainer.{key}" in overridden_keys([*common, *(item for line in lines for item in line)]):
            raise UserError(f"trainer.{key}: leave it out; resources=… says what the job gets")
    common += [f"trainer.{key}={value}" for key, value in resources.trainer.items()]
    if "data.threads" not in overridden_keys(common):
        common.append(f"data.threads={resources.cpus_per_task}")
    opened = {} if opened is None else opened
    runs = [_plan([*common, *line], opened) for line in lines]
    if len({run.path for run in runs}) < len(runs):
        raise UserError("runs: two lines are the same run; expected different ones")
    states = _states(runs, dry_run)
    open_runs = [number for number, state in enumerate(states) if state == OPEN]
    # The attempt that run.fresh=true chose: a job that is queued again must not choose another.
    lines = [[*line, f"run.attempt={run.attempt}", "run.fresh=false"] for run, line in zip(runs, lines, strict=True)]

    folder = runs[0].path.parent / "slurm"
    arguments, flags = [*common, *lines[0]], {"output": f"{folder}/%j.log", "job_name": runs[0].run_id}
    text = "".join(f"{shlex.join(line)}\n" for line in lines)
    if array is not None:
        list_file = folder / f"runs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
        arguments = [str(list_file), *common]
        numbers = ",".join(str(number + 1) for number in open_runs)
        numbers += "" if limit is None else f"%{limit}"
        flags = {"array": numbers, "output": f"{folder}/%A_%a.log", "job_name": array}
    if not dry_run:
        for number in open_runs:
            runs[number].create()  # a place that cannot be written is told before anything is queued
    source = snapshot(SOURCE, folder / "source") if is_checkout() and open_runs and not dry_run else SOURCE
    scripts = scripts_of(source)
    script = scripts / ("train.sbatch" if array is None else "array.sbatch")
    command = sbatch_command(cluster, resources, script, arguments, **flags)
    jobs: list[str | None] = [None] * len(runs)
    if open_runs and not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        if array is not None:
            write_atomic(list_file, text)
        job = submit(command, job_environment(cluster, resources, source, scripts))
        for number in open_runs:
            jobs[number] = job if array is None else f"{job}_{number + 1}"
            states[number] = "submitted"
            runs[number].add_job(job=jobs[number], submitted=now(), command=shlex.join(command), source=str(source))
    return {
        "runs": [
            {"run": str(run.path), "state": state, "job": job}
            for run, state, job in zip(runs, states, jobs, strict=True)
        ],
        "command": shlex.join(command),
        "ranks": f"{resources.nodes} × {resources.tasks_per_node}",
        "log": flags["output"],
        "source": str(source) if is_checkout() else "as it is when the job starts: this is no git checkout",
    }


def _plan(overrides: Sequence[str], opened: MutableMapping[str, ImageDataModule]) -> RunDirectory:
    config = compose("train", overrides)
    check_config(config, TYPES)
    run, data = plan_run(config, opened)
    data.check_batch(world_size(config.trainer), config.trainer.accumulate_grad_batches)
    return run


def _states(runs: Sequence[RunDirectory], dry_run: bool) -> list[str]:
    """For each run ``OPEN``, or why it is not to be submitted."""
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
