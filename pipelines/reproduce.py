"""Reproduce what a recipe expects, or a recorded run value by value.

    convatlas reproduce experiment=quickstart
    convatlas reproduce run=runs/resnet20_cifar-fashion_mnist_sample-0a1b2c3d-s0

With `experiment`, trains each of the recipe's `seeds`, unless it is finished, and judges the means by its `expected`.
With `run`, trains a finished run again, with the recorded configuration and code, and compares the curves; the original
is not changed. The exit status is 0 if the result is as expected or as recorded, 1 if not, and 75 after Ctrl-C.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field

from convatlas.cli import execute
from convatlas.config.composition import check_config, compose_around_train, overridden_keys, plain
from convatlas.config.composition import compose as compose_config
from convatlas.data.module import ImageDataModule
from convatlas.errors import TrainingFailedError, UserError
from convatlas.jobs.rerun import prepared_rerun
from convatlas.jobs.supervisor import run_training
from convatlas.record.directory import RunDirectory
from convatlas.record.expectation import Expectation, judge
from convatlas.record.groups import group_runs
from convatlas.record.lines import read_metrics
from convatlas.record.lock import run_state
from convatlas.record.quantities import metric_text, spread_text
from convatlas.record.reader import read_run
from convatlas.report.views.reproduction import CLOCK, compare_runs
from convatlas.training.checkpoint_io import equal_weights
from convatlas.training.plan import TYPES, plan_run
from convatlas.training.trainer import quiet_libraries, world_size
from convatlas.utils.console import print_fields, print_table, warn

WEIGHTS = {True: "equal weights, bit for bit", False: "other weights", None: "not compared: one is not kept"}


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/reproduce.yaml``; ``train`` holds the overrides of the training."""
    places = [override for override in overrides if override.startswith("run.")]  # of the training: `run` is ours
    config = compose_around_train(name, [override for override in overrides if override not in places])
    config.train += places
    if config.run is None and (stray := {"code", "tolerance"} & overridden_keys(overrides)):
        raise UserError(f"{min(stray)}: goes with run=DIR; an experiment has tolerances of its own, under `expected`")
    return config


def reproduce(config: DictConfig) -> dict[str, Any]:
    """Reproduce an experiment or a run.

    Args:
        config: From ``compose``.

    Returns:
        ``reproduced`` and ``verdict``. Of an experiment, ``runs`` and ``metrics``; of a run, ``recorded``, ``run``,
        ``code``, ``differences`` (from the record), ``values`` (how many were compared), ``equal_weights``, ``test``.

    Raises:
        UserError: There is nothing to judge, the run is not finished, or code, data or settings cannot be used.
        TrainingFailedError: The training failed.
        Preempted: A signal was received; the exit status is 75.
    """
    quiet_libraries()
    return _experiment(list(config.train)) if config.run is None else _run(config)


def _experiment(overrides: list[str]) -> dict[str, Any]:
    config = compose_config("train", overrides)
    check_config(config, TYPES)
    expected = [Expectation(**entry) for entry in plain(config)["expected"]]
    if all(expectation.tolerance is None for expectation in expected):
        raise UserError("expected: nothing here has a tolerance to be judged by; give such an experiment=…, or run=DIR")
    if "seed" in overridden_keys(overrides):
        raise UserError("seed: leave it out; seeds=[…] are those of the experiment")
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise UserError(f"seeds={config.seeds}: expected at least one, and each once")
    opened: dict[str, ImageDataModule] = {}
    lines = [[*overrides, f"seed={seed}"] for seed in config.seeds]
    runs = [plan_run(compose_config("train", line), opened)[0] for line in lines]
    for run, line in zip(runs, lines, strict=True):
        if not run.finished:
            try:  # the attempt that run.fresh=true chose is named
                run_training(run, [*line, f"run.attempt={run.attempt}", "run.fresh=false"], world_size(config.trainer))
            except TrainingFailedError as error:
                warn(str(error))
    finished = [read_run(run.path) for run in runs if run.finished]
    rows = [row for group in group_runs(finished) for row in judge(group, expected)]
    good = len(finished) == len(runs) and all(row.met for row in rows)
    return {
        "reproduced": good,
        "verdict": "reproduced" if good else "not reproduced",
        "runs": [{"run": str(run.path), "state": run_state(run)} for run in runs],
        "metrics": [row.as_dict() for row in rows],
    }


def _run(config: DictConfig) -> dict[str, Any]:
    recorded = read_run(Path(config.run))
    if recorded.state != "finished" or not recorded.provenance:
        raise UserError(f"run={config.run}: it is {recorded.state}; expected a finished run with its provenance.json")
    with prepared_rerun(recorded.run_id, recorded.config, recorded.provenance, config.train, config.code) as rerun:
        sys.stderr.writelines(f"convatlas: {line}\n" for line in [f"code: {rerun.code}", *rerun.differences])
        run_training(rerun.run, rerun.overrides, rerun.ranks, rerun.environment)
    found = read_run(rerun.run.path)
    sides = [RunDirectory(side.path) for side in (recorded, found)]
    curves = [read_metrics(side.metrics) for side in sides]
    agreement = compare_runs(recorded, found, curves, config.tolerance)
    equal = equal_weights(*(side.best for side in sides))
    verdict = agreement.verdict(equal)
    return {
        "reproduced": verdict != "different",
        "verdict": agreement.sentence(verdict),
        "recorded": str(recorded.path),
        "run": str(found.path),
        "code": rerun.code,
        "differences": rerun.differences,
        "values": agreement.values,
        "equal_weights": equal,
        "test": {name: [value, found.results.get(name)] for name, value in recorded.results.items()},
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the verdict and the compared values."""
    if "runs" in result:
        print_fields({run["run"]: run["state"] for run in result["runs"]})
        print_table(["Metric", "Mean", "n", "Expected", "Tolerance", "Verdict", "Source"], map(_row, result["metrics"]))
        print_fields({"verdict": result["verdict"]})
        return
    fields = {name: result[name] for name in ("recorded", "run", "code")}
    fields["differences"] = "; ".join(result["differences"]) or "none in configuration, data and environment"
    fields |= {name: " and ".join(metric_text(name, value) for value in pair) for name, pair in result["test"].items()}
    values = f"{result['values']:,} compared, without {', '.join(sorted(CLOCK))}"
    rest = {"best.ckpt": WEIGHTS[result["equal_weights"]], "values": values, "verdict": result["verdict"]}
    print_fields(fields | rest)


def _row(entry: Mapping[str, Any]) -> list[Any]:
    metric, found, tolerance = entry["metric"], entry["found"], entry["tolerance"]
    mean = spread_text(metric, found["mean"], found["deviation"]) if found else "–"
    judged = "not judged" if tolerance is None else f"± {metric_text(metric, tolerance)}"
    wanted = metric_text(metric, entry["value"])
    return [metric, mean, found and found["count"], wanted, judged, entry["verdict"], entry["source"]]


if __name__ == "__main__":
    types = {"run": str | None, "code": Literal["recorded", "current"], "tolerance": Annotated[float, Field(ge=0)]}
    execute(reproduce, show, types, compose, lambda result: 0 if result["reproduced"] else 1)
