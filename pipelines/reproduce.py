"""Reproduce what a recipe expects, or a recorded run value by value.

    convatlas reproduce experiment=quickstart
    convatlas reproduce run=runs/resnet20_cifar-fashion_mnist_sample-0a1b2c3d-s0

With `experiment`, trains the recipe with each of its `seeds` and judges the means by its `expected`; finished runs are
not run again. With `run`, trains a finished run once more by its own record, with the recorded configuration and code,
and compares the curves; the original is not touched. The exit status is 0 if what was expected, or is on record, came
out, else 1; 75 after Ctrl-C, and the same command goes on.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, open_dict
from pydantic import Field

from convatlas.cli import execute
from convatlas.config import check_config, overridden_keys, parse_overrides, plain
from convatlas.config import compose as compose_config
from convatlas.console import print_fields, print_table
from convatlas.errors import TrainingFailedError, UserError
from convatlas.planning import TYPES, plan_run
from convatlas.report.expectations import Expectation, judge
from convatlas.report.groups import group_runs
from convatlas.report.quantities import metric_text, spread_text
from convatlas.report.reproduction import CLOCK, compare_records
from convatlas.report.run_record import RunRecord, read_run
from convatlas.run.checkpoints import equal_weights
from convatlas.run.environment import quiet_libraries, world_size
from convatlas.run.launch import train_to_end
from convatlas.run.lock import run_state
from convatlas.run.recorded import prepared_rerun
from convatlas.tracking.local_record import read_metrics

OWN_KEYS = ("run", "code", "tolerance", "format")
OF_RUNS = {"code", "tolerance"}
WEIGHTS = {True: "equal weights, bit for bit", False: "other weights", None: "not compared: one is not kept"}


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/reproduce.yaml``; ``train`` holds the overrides that are for the training."""
    parsed = parse_overrides(overrides)
    own = [override for override in parsed if override.key_or_group in OWN_KEYS]
    config = compose_config(name, [str(override.input_line) for override in own])
    with open_dict(config):
        config.train = [str(override.input_line) for override in parsed if override not in own]
    if config.run is None and (stray := OF_RUNS & overridden_keys(overrides)):
        raise UserError(f"{min(stray)}: goes with run=DIR; an experiment has tolerances of its own, under `expected`")
    return config


def reproduce(config: DictConfig) -> dict[str, Any]:
    """Reproduce an experiment or a run.

    Args:
        config: From ``compose``.

    Returns:
        ``verdict`` and ``reproduced``, whether it is a good one. Of an experiment, ``runs`` and ``metrics``; of a run,
        ``recorded``, ``run``, ``code``, ``differences`` of the environment, ``values`` (how many were compared),
        ``clock`` (what was not), ``test``, and ``equal_weights`` of the best checkpoints.

    Raises:
        UserError: Nothing to judge, a record that is not that of a finished run, code or data that are not the recorded
            ones; what the training refuses.
        TrainingFailedError: The run that is to be compared failed.
        Preempted: A signal came; the exit status is 75.
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
    lines = [[*overrides, f"seed={seed}"] for seed in config.seeds]
    runs = [plan_run(compose_config("train", line))[0] for line in lines]
    for run, line in zip(runs, lines, strict=True):
        if not run.finished:
            log = run.path.parent / "reproduce" / f"{run.run_id}.log"
            try:
                attempt = [f"run.attempt={run.attempt}", "run.fresh=false"]  # what run.fresh=true chose
                train_to_end([*line, *attempt], log, world_size(config.trainer))
            except TrainingFailedError as error:
                sys.stderr.write(f"convatlas: warning: {error}\n")
    finished = [read_run(run.path) for run in runs if run.finished]
    rows = [row for group in group_runs(finished) for row in judge(group, expected)]
    judged = [row.verdict for row in rows if row.expectation.tolerance is not None]
    good = len(finished) == len(runs) and set(judged) <= {"as expected", "better"}
    return {
        "reproduced": good,
        "verdict": "reproduced" if good else "not reproduced",
        "runs": [
            {"run": str(run.path), "state": run_state(run), "seed": seed}
            for run, seed in zip(runs, config.seeds, strict=True)
        ],
        "metrics": [
            asdict(row.expectation) | {"found": row.found and asdict(row.found), "verdict": row.verdict} for row in rows
        ],
    }


def _run(config: DictConfig) -> dict[str, Any]:
    recorded = read_run(Path(config.run))
    if recorded.state != "finished":
        raise UserError(f"run={config.run}: its state is {recorded.state}; expected a run that is finished")
    with prepared_rerun(recorded.run_id, recorded.config, recorded.provenance, config.train, config.code) as rerun:
        sys.stderr.write("".join(f"{line}\n" for line in [f"code: {rerun.code}", *rerun.differences]))
        log = rerun.run.path.parent / "reproduce" / f"{rerun.run.run_id}.log"
        train_to_end(rerun.overrides, log, rerun.ranks, rerun.environment)
    found = read_run(rerun.run.path)
    agreement = compare_records(*_lines(recorded, found), config.tolerance)
    equal = equal_weights(*(side.path / "checkpoints" / "best.ckpt" for side in (recorded, found)))
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
        "test": {name: {"recorded": value, "now": found.results.get(name)} for name, value in recorded.results.items()},
    }


def _lines(recorded: RunRecord, found: RunRecord) -> list[list[dict[str, Any]]]:
    """Both records, from the state before the first step, as far as both hold it, to the final metrics."""
    sides = (recorded, found)
    starts = [side.provenance.get("start", {}) for side in sides]
    known = [name for name in starts[0] if name in starts[1]]
    return [
        [
            {"step": 0, **{name: start[name] for name in known}},
            *read_metrics(side.path / "metrics.jsonl"),
            {"step": side.summary["steps"], **{f"final {name}": value for name, value in side.results.items()}},
        ]
        for side, start in zip(sides, starts, strict=True)
    ]


def show(result: Mapping[str, Any]) -> None:
    """Print the verdict and what it rests on."""
    if "runs" in result:
        print_fields({f"seed {run['seed']}": f"{run['run']}  {run['state']}" for run in result["runs"]})
        print_table(["Metric", "Mean", "n", "Expected", "Tolerance", "Verdict", "Source"], map(_row, result["metrics"]))
    else:
        test = {
            name: " and ".join(metric_text(name, value, 3) for value in sides.values())
            for name, sides in result["test"].items()
        }
        print_fields(
            {
                "recorded": result["recorded"],
                "run": result["run"],
                "code": result["code"],
                "differences": "; ".join(result["differences"]) or "none in environment and data",
                **test,
                "best.ckpt": WEIGHTS[result["equal_weights"]],
                "values": f"{result['values']:,} compared, without {', '.join(sorted(CLOCK))}",
            }
        )
    print_fields({"verdict": result["verdict"]})


def _row(entry: Mapping[str, Any]) -> list[str]:
    metric, found, tolerance = entry["metric"], entry["found"], entry["tolerance"]
    return [
        metric,
        spread_text(metric, found["mean"], found["deviation"]) if found else "–",
        str(found["count"] if found else 0),
        metric_text(metric, entry["value"]),
        "not judged" if tolerance is None else f"± {metric_text(metric, tolerance)}",
        entry["verdict"],
        entry["source"],
    ]


if __name__ == "__main__":
    types = {"run": str | None, "code": Literal["recorded", "current"], "tolerance": Annotated[float, Field(ge=0)]}
    execute(reproduce, show, types, compose, lambda result: 0 if result["reproduced"] else 1)
