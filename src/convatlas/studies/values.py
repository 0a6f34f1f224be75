"""The figures of a study: one from each run, or from each evaluation of runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convatlas.errors import UserError
from convatlas.record.reader import RunRecord, number
from convatlas.record.series import Series
from convatlas.studies.design import Block, Cell, Study
from convatlas.studies.plan import Evaluation, StudyPlan


@dataclass(frozen=True)
class Value:
    """A figure of a study.

    Attributes:
        value: The figure. If the threshold was not reached, the number of epochs of the run.
        reached: Whether the threshold was reached; if not, the figure is a lower bound.
    """

    value: float
    reached: bool = True


def gather(
    study: Study,
    plan: StudyPlan,
    evaluations: Mapping[tuple[Cell, Block], Evaluation],
    records: Mapping[Path, RunRecord],
) -> dict[Cell, dict[Block, Value]]:
    """Read the figures of every cell, from its evaluations if it has some, otherwise from its finished runs.

    Args:
        study: The study.
        plan: Its runs.
        evaluations: Its evaluations, with or without a result.
        records: The readable records of its runs.

    Raises:
        UserError: A run or an evaluation does not have the metric of the study.
    """
    values: dict[Cell, dict[Block, Value]] = {}
    for cell, runs in plan.cells.items():
        found: dict[Block, Value | None] = {}
        for block in study.blocks(cell.arm):
            if study.arms[cell.arm].evaluated:
                evaluation = evaluations.get((cell, block))
                if evaluation is not None and (said := evaluation.result) is not None:
                    found[block] = value_of_evaluation(said, study)
            elif runs[block[0]].finished and runs[block[0]].path in records:
                found[block] = value_of_run(records[runs[block[0]].path], study)
        values[cell] = {block: value for block, value in found.items() if value is not None}
    return values


def value_of_run(run: RunRecord, study: Study) -> Value | None:
    """The figure of a finished run; None if it is not finite.

    Raises:
        UserError: The run has no such metric.
    """
    if study.metric in run.results:
        found = number(run.results[study.metric])
        return None if found is None else Value(found)
    if study.metric not in run.series:
        names = ", ".join([*run.series, *run.results])
        raise UserError(f"study.metric={study.metric}: {run.path} has no such metric; it has {names}")
    series = run.series[study.metric]
    if study.threshold is not None:
        return _epochs(series, study.threshold, study.mode, run)
    best = np.fmax.reduce(series.highs) if study.mode == "max" else np.fmin.reduce(series.lows)
    found = number(series.last if study.statistic == "final" else float(best))
    return None if found is None else Value(found)


def value_of_evaluation(evaluation: Mapping[str, Any], study: Study) -> Value | None:
    """The figure of an evaluation; None if it is not finite.

    Raises:
        UserError: The evaluation has no such metric.
    """
    metrics = evaluation["metrics"]
    if study.metric not in metrics:
        raise UserError(f"study.metric={study.metric}: an evaluation of an arm has only {', '.join(metrics)}")
    found = number(metrics[study.metric])
    return None if found is None else Value(found)


def _epochs(series: Series, threshold: float, mode: str, run: RunRecord) -> Value:
    """The epochs until the curve first crosses the threshold, interpolated linearly between finite values."""
    sign = 1 if mode == "max" else -1
    ends = np.append(np.flatnonzero(np.diff(series.epochs)), len(series.epochs) - 1)  # the last of each epoch
    epochs, values = series.epochs[ends] + 1, sign * series.means[ends]
    finite = np.isfinite(values)
    epochs, values = epochs[finite], values[finite]
    over = np.flatnonzero(values >= sign * threshold)
    if not over.size:
        return Value(float(run.summary["epochs"]), reached=False)
    first = int(over[0])
    if first == 0:
        return Value(float(epochs[0]))
    share = (sign * threshold - values[first - 1]) / (values[first] - values[first - 1])
    return Value(float(epochs[first - 1] + share * (epochs[first] - epochs[first - 1])))
