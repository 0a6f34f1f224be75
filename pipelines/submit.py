"""Submit a run to SLURM; it outlives time limits, preemption and failing nodes.

    convatlas submit experiment=quickstart cluster=cpu resources=one_cpu
    convatlas submit model=resnet50 data=imagenet data.root=/data resources=four_gpus resources.time=12:00:00
    convatlas submit runs=seeds.txt experiment=quickstart dry_run=true

Takes the overrides of `train`, checks them and the images here, and submits slurm/train.sbatch, or slurm/array.sbatch
for a file with the overrides of one run a line. The flags of sbatch and the Trainer's devices come from resources=NAME
and cluster=NAME. The job runs the source as it is now, whatever is edited while it waits. A run that is finished,
queued or owned by a process is not submitted.
"""

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import PositiveInt

from convatlas.cli import execute
from convatlas.config import check_config, compose_around_train, overridden_keys
from convatlas.config import compose as compose_config
from convatlas.console import print_fields
from convatlas.errors import UserError
from convatlas.jsonio import write_atomic
from convatlas.planning import TYPES, plan_run
from convatlas.run.directory import RunDirectory, now
from convatlas.run.environment import quiet_libraries, world_size
from convatlas.run.lock import living_owner
from convatlas.run.provenance import SOURCE
from convatlas.run.slurm import Cluster, Resources, is_queued, job_environment, job_states, sbatch_command
from convatlas.run.slurm import submit as submit_job
from convatlas.run.snapshot import is_checkout, scripts_of, snapshot

OWN_KEYS = ("cluster", "resources", "runs", "array_limit", "dry_run", "format")
OPEN = "to be submitted"


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/submit.yaml``; ``train`` holds the overrides that are for the job."""
    return compose_around_train(name, overrides, OWN_KEYS)


def submit(config: DictConfig) -> dict[str, Any]:
    """Submit one run, or an array of them.

    Args:
        config: From ``compose``.

    Returns:
        ``runs``: for each, ``run`` (the directory), ``state`` (``submitted``, or why it was not) and ``job``;
        ``command``: that of sbatch; ``ranks``; ``log``; ``source``: the snapshot that the job runs.

    Raises:
        UserError: A mistake in the configuration, the data or the resources; no SLURM here, or it refuses.
    """
    quiet_libraries()
    cluster: Cluster = instantiate(config.cluster)
    resources: Resources = instantiate(config.resources)
    common, lines = list(config.train), _lines(config.runs)
    for key in ("accelerator", "devices", "num_nodes"):
        if f"trainer.{key}" in overridden_keys([*common, *(item for line in lines for item in line)]):
            raise UserError(f"trainer.{key}: leave it out; resources=… says what the job gets")
    common += [f"trainer.{key}={value}" for key, value in resources.trainer.items()]
    if "data.threads" not in overridden_keys(common):
        common.append(f"data.threads={resources.cpus_per_task}")
    runs = [_plan([*common, *line]) for line in lines]
    if len({run.path for run in runs}) < len(runs):
        raise UserError(f"runs={config.runs}: two lines are the same run; expected different ones")
    states = _states(runs, config.dry_run)
    open_runs = [number for number, state in enumerate(states) if state == OPEN]
    # The attempt that run.fresh=true chose: a job that is queued again must not choose another.
    lines = [[*line, f"run.attempt={run.attempt}", "run.fresh=false"] for run, line in zip(runs, lines, strict=True)]

    folder = runs[0].path.parent / "slurm"
    arguments, flags = [*common, *lines[0]], {"output": f"{folder}/%j.log", "job_name": runs[0].run_id}
    text = "".join(f"{shlex.join(line)}\n" for line in lines)
    if config.runs is not None:
        list_file = folder / f"runs-{hashlib.sha256(text.encode()).hexdigest()[:12]}.txt"
        arguments = [str(list_file), *common]
        numbers = ",".join(str(number + 1) for number in open_runs)
        numbers += "" if config.array_limit is None else f"%{config.array_limit}"
        flags = {"array": numbers, "output": f"{folder}/%A_%a.log", "job_name": Path(config.runs).stem}
    if not config.dry_run:
        for number in open_runs:
            runs[number].create()  # a place that cannot be written is told before anything is queued
    source = snapshot(SOURCE, folder / "source") if is_checkout() and open_runs and not config.dry_run else SOURCE
    scripts = scripts_of(source)
    script = scripts / ("train.sbatch" if config.runs is None else "array.sbatch")
    command = sbatch_command(cluster, resources, script, arguments, **flags)
    jobs: list[str | None] = [None] * len(runs)
    if open_runs and not config.dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        if config.runs is not None:
            write_atomic(list_file, text)
        job = submit_job(command, job_environment(cluster, resources, source, scripts))
        for number in open_runs:
            jobs[number] = job if config.runs is None else f"{job}_{number + 1}"
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


def _lines(path: str | None) -> list[list[str]]:
    if path is None:
        return [[]]
    if not Path(path).is_file():
        raise UserError(f"runs={path}: no such file; expected one with the overrides of a run on each line")
    try:
        lines = [shlex.split(line) for line in Path(path).read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"runs={path}: {error}; expected overrides quoted as a shell reads them") from error
    if not lines or not all(lines):
        line = lines.index([]) + 1 if lines else 1
        raise UserError(f"runs={path}: line {line} is empty; expected the overrides of a run on each line")
    return lines


def _plan(overrides: Sequence[str]) -> RunDirectory:
    config = compose_config("train", overrides)
    check_config(config, TYPES)
    run, data = plan_run(config)
    data.check_batch(world_size(config.trainer), config.trainer.accumulate_grad_batches)
    return run


def _states(runs: Sequence[RunDirectory], dry_run: bool) -> list[str]:
    """For each run ``OPEN``, or why it is not to be submitted."""
    ask = not dry_run or shutil.which("squeue") is not None
    slurm = job_states([entry["job"] for run in runs for entry in run.jobs]) if ask else {}
    return [_state(run, slurm) for run in runs]


def _state(run: RunDirectory, slurm: Mapping[str, str]) -> str:
    if run.finished:
        return "finished already"
    if (owner := living_owner(run.path / "lock.json")) is not None:
        return f"owned by {owner}"
    queued = [entry["job"] for entry in run.jobs if is_queued(slurm.get(entry["job"]))]
    return f"queued already as job {queued[0]}" if queued else OPEN


def show(result: Mapping[str, Any]) -> None:
    """Print what was submitted."""
    for entry in result["runs"]:
        job = f"  job {entry['job']}" if entry["job"] else ""
        print_fields({"run": entry["run"], "state": entry["state"] + job})
    print_fields({"ranks": result["ranks"], "source": result["source"], "command": result["command"]})
    root = shlex.quote(str(Path(result["runs"][0]["run"]).parent))
    if any(entry["job"] for entry in result["runs"]):
        print_fields({"log": result["log"], "jobs": f"convatlas jobs root={root}"})


if __name__ == "__main__":
    execute(submit, show, {"runs": str | None, "array_limit": PositiveInt | None, "dry_run": bool}, compose)
