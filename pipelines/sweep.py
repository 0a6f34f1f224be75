"""Search for hyper-parameters; the search outlives whatever ends its trials, its workers or this command.

    convatlas sweep sweep=learning_rate experiment=quickstart num_workers=2
    convatlas sweep sweep=grid model=resnet50 data=imagenet data.root=/data cluster=gpu resources=one_gpu num_workers=8

Each trial is an ordinary run of `train`, with the same overrides; conf/sweep/NAME.yaml defines the search space and the
objective. The same command continues an unfinished sweep and shows the result of a finished one; a larger num_trials
extends it, a larger num_workers adds workers. See docs/sweeps.md.
"""

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveInt

from convatlas.cli import execute
from convatlas.config.arguments import reduced
from convatlas.config.composition import compose as compose_config
from convatlas.config.composition import (
    compose_around_train,
    overridden_keys,
    parse_overrides,
    plain,
    project_path,
    quoted,
)
from convatlas.errors import UserError
from convatlas.jobs.slurm import Resources
from convatlas.sweep.checks import check_space
from convatlas.sweep.cluster import submit_workers
from convatlas.sweep.definition import (
    IDENTITY,
    MAX_RETRIES,
    NUM_TRIALS,
    Sweep,
    find_sweep_of_before,
    open_sweep,
    write_sweep,
)
from convatlas.sweep.local import work_here
from convatlas.sweep.objective import Objective
from convatlas.sweep.result import best, rows, write_table
from convatlas.sweep.space import Space
from convatlas.sweep.storage import VARIABLE, address
from convatlas.training.trainer import quiet_libraries
from convatlas.utils.console import print_fields, print_table


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/sweep.yaml``; ``train`` holds the overrides of all trials.

    Raises:
        UserError: As ``compose_around_train``.
    """
    for override in overrides:
        if override.lstrip("+").startswith("storage=") and not _is_text(override):
            raise UserError("storage: cannot be read; quote it twice: \"storage='postgresql://…'\"")
    return compose_around_train(name, overrides)


def _is_text(override: str) -> bool:
    """Whether Hydra reads text or null. Its error messages quote the override, which may hold a password."""
    try:
        return isinstance(parse_overrides([override])[0].value(), str | None)
    except UserError:
        return False


def sweep(config: DictConfig) -> dict[str, Any]:
    """Search on this machine, or submit workers to a cluster.

    Args:
        config: From ``compose``.

    Returns:
        ``sweep`` (the directory), ``state`` (``finished``, ``running`` by jobs of a cluster, ``checked`` by a dry run),
        ``jobs``, ``trials`` and ``best`` as in ``convatlas.sweep.result``.

    Raises:
        UserError: A mistake in the sweep, in the settings of the trainings or in the data, or SLURM is not available.
        WorkersEndedError: A worker on this machine failed.
    """
    quiet_libraries()
    resources: Resources | None = instantiate(config.get("resources"))
    settings, directory, own = _identify(config, resources)
    if config.dry_run:
        return {"sweep": str(directory), "state": "checked", "jobs": [], "trials": [], "best": []}
    write_sweep(directory, settings, config.storage)
    if config.storage is not None:
        os.environ[VARIABLE] = config.storage
    search = open_sweep(directory)
    search.study.set_user_attr(NUM_TRIALS, config.num_trials)
    search.study.set_user_attr(MAX_RETRIES, config.max_retries)
    jobs: list[str] = []
    if (left := _open_trials(search, config.num_trials)) > 0:
        workers = min(config.num_workers, left)
        if resources is not None and config.get("cluster") is not None:
            with search.mutex():  # the same command elsewhere counts these, too
                jobs = submit_workers(instantiate(config.cluster), resources, directory, own, workers)
        else:
            all_ended = lambda: _open_trials(search, config.num_trials) <= 0  # noqa: E731
            work_here(resources, directory, own, workers, config.max_retries, all_ended)
    with search.mutex():
        write_table(search)
    state = "running" if _open_trials(search, config.num_trials) else "finished"
    return {"sweep": str(directory), "state": state, "jobs": jobs, "trials": rows(search), "best": best(search)}


def _identify(config: DictConfig, resources: Resources | None) -> tuple[dict[str, Any], Path, list[str]]:
    """Check a sweep and return its settings, its directory and the overrides that it adds to each training."""
    train = list(config.train)
    own = [f"trainer.{key}={value}" for key, value in (resources.trainer if resources else {}).items()]
    if resources is not None and "data.threads" not in overridden_keys(train):
        own.append(f"data.threads={resources.cpus_per_task}")
    if resources is not None and (set(overridden_keys(train)) & {f"trainer.{key}" for key in resources.trainer}):
        raise UserError(
            "trainer.accelerator, devices and num_nodes: leave them out; resources=… says what a trial gets"
        )
    if config.get("cluster") is not None and resources is None:
        raise UserError("resources: expected resources=NAME, what each worker of the cluster gets")
    address(config.storage)
    objectives = [Objective(**entry) for entry in plain(config)["objective"]]
    if not objectives:
        raise UserError("objective: expected at least one of {metric, mode}")
    if len(objectives) > 1 and config.pruner._target_ != "optuna.pruners.NopPruner":
        raise UserError(
            f"pruner={config.pruner._target_}: expected optuna.pruners.NopPruner; pruners want one objective"
        )
    space = Space(instantiate(config.space, _convert_="all"), lambda key: (project_path("conf") / key).is_dir())
    settings = {key: plain(config)[key] for key in IDENTITY}
    if "space" in config.sampler and config.num_trials > (points := len(space.grid())):
        raise UserError(f"num_trials={config.num_trials}: the grid has {points} points; expected no more")
    first = check_space(space, train, [*own, f"run.root={quoted(config.root)}"], objectives)
    digest = hashlib.sha256(json.dumps([reduced(settings), first], sort_keys=True).encode()).hexdigest()[:8]
    directory = Path(config.root) / f"{config.name}-{digest}"
    if not directory.exists() and (former := find_sweep_of_before(directory, settings, train)) is not None:
        sys.stderr.write(
            f"convatlas: {former} is this sweep, begun by an earlier version; it continues under that name. The images "
            "could not be compared\n"
        )
        directory = former
    own.append(f"run.root={quoted(str(directory / 'runs'))}")
    wandb = OmegaConf.select(compose_config("train", train), "tracking.wandb")
    if wandb is not None and wandb.group is None:
        own.append(f"tracking.wandb.group={quoted(directory.name)}")
    return settings | {"train": train}, directory, own


def _open_trials(search: Sweep, num_trials: int) -> int:
    return num_trials - sum(trial.state.is_finished() for trial in search.study.get_trials(deepcopy=False))


def show(result: Mapping[str, Any]) -> None:
    """Print the trials, the best of them, and the commands that train them again."""
    trials = result["trials"]
    if trials:
        metrics, names = (
            list(trials[0]["values"]),
            list(dict.fromkeys(name for row in trials for name in row["params"])),
        )
        texts = [Objective(metric, "max").text for metric in metrics]
        table = [
            (
                row["number"],
                row["state"],
                *(text(value) for text, value in zip(texts, row["values"].values(), strict=True)),
                *(row["params"].get(name) for name in names),
                row["reason"] or Path(row["run"] or "").name,
            )
            for row in trials
        ]
        print_table(("trial", "state", *metrics, *names, "run, or why it failed"), table, ("trial", *metrics, *names))
    fields = {"sweep": f"{result['sweep']}  ({result['state']})"}
    if result["jobs"]:
        fields |= {"jobs": " ".join(result["jobs"]), "logs": f"{result['sweep']}/logs"}
    for row in result["best"]:
        told = "  ".join(f"{metric} {Objective(metric, 'max').text(value)}" for metric, value in row["values"].items())
        fields |= {f"best {row['number']}": told, f"again {row['number']}": row["command"]}
    if trials:
        fields |= {"table": f"{result['sweep']}/trials.csv", "report": f"convatlas report root={result['sweep']}/runs"}
    print_fields(fields)


TYPES = {
    "name": str,
    "objective": list[Objective],
    "num_trials": PositiveInt,
    "max_retries": NonNegativeInt,
    "num_workers": PositiveInt,
    "root": str,
    "storage": str | None,
    "dry_run": bool,
}

if __name__ == "__main__":
    execute(sweep, show, TYPES, compose)
