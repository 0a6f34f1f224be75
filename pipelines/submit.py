"""Submit runs to SLURM that survive time limits, preemption and node failures.

    convatlas submit experiment=quickstart cluster=cpu resources=one_cpu
    convatlas submit model=resnet50 data=imagenet data.root=/data resources=four_gpus resources.time=12:00:00
    convatlas submit runs=seeds.txt experiment=quickstart dry_run=true

Takes the overrides of `train`, checks them and the data on this machine, and submits slurm/train.sbatch, or
slurm/array.sbatch for a file with the overrides of one run per line. The flags of sbatch and the Trainer's devices come
from resources=NAME and cluster=NAME. The job runs a copy of the present source: later edits do not affect it.
A run that is finished, queued or owned by a process is not submitted.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import PositiveInt

from convatlas.cli import execute
from convatlas.config.composition import compose_around_train
from convatlas.errors import UserError
from convatlas.jobs.submission import submit_runs
from convatlas.training.trainer import quiet_libraries
from convatlas.utils.console import print_fields


def submit(config: DictConfig) -> dict[str, Any]:
    """Submit one run, or an array of runs.

    Args:
        config: From ``compose_around_train``.

    Returns:
        The result of ``submit_runs``.

    Raises:
        UserError: A mistake in the configuration, the data or the resources; no SLURM here, or it refuses.
    """
    quiet_libraries()
    return submit_runs(
        config.train,
        _lines(config.runs),
        instantiate(config.cluster),
        instantiate(config.resources),
        array=None if config.runs is None else Path(config.runs).stem,
        limit=config.array_limit,
        dry_run=config.dry_run,
    )


def _lines(path: str | None) -> list[list[str]]:
    if path is None:
        return [[]]
    if not Path(path).is_file():
        raise UserError(f"runs={path}: no such file; expected one with the overrides of a run on each line")
    try:
        lines = [shlex.split(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise UserError(f"runs={path}: {error}; expected overrides quoted as a shell reads them") from error
    if not lines or not all(lines):
        line = lines.index([]) + 1 if lines else 1
        raise UserError(f"runs={path}: line {line} is empty; expected the overrides of a run on each line")
    return lines


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
    execute(
        submit, show, {"runs": str | None, "array_limit": PositiveInt | None, "dry_run": bool}, compose_around_train
    )
