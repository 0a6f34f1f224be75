"""The one figure that a study takes from a run, or from an evaluation of runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from convatlas.report.run_record import RunRecord, number
from convatlas.report.series import Series
from convatlas.studies.design import Study


@dataclass(frozen=True)
class Value:
    """A figure.

    Attributes:
        value: The figure itself; of a threshold that was never reached, the epochs that the run had.
        reached: False for such a one: the figure is a lower bound.
    """

    value: float
    reached: bool = True


def value_of_run(run: RunRecord, study: Study) -> Value | None:
    """The figure of a finished run; None if it has not logged the metric, or the figure is not finite."""
    series = run.series.get(study.metric)
    if study.statistic == "epochs_to_reach":
        return None if series is None or study.threshold is None else _epochs(series, study.threshold, study.mode, run)
    if study.metric in run.results:
        found = number(run.results[study.metric])
    elif series is None:
        return None
    elif study.statistic == "final":
        found = number(series.last)
    else:
        best = np.fmax.reduce(series.highs) if study.mode == "max" else np.fmin.reduce(series.lows)
        found = number(float(best))
    return None if found is None else Value(found)


def value_of_evaluation(evaluation: Mapping[str, Any], study: Study) -> Value | None:
    """The figure of an evaluation; None if it does not have the metric."""
    found = number(evaluation["metrics"].get(study.metric))
    return None if found is None else Value(found)


def _epochs(series: Series, threshold: float, mode: str, run: RunRecord) -> Value | None:
    """The epochs after which the curve first crosses the threshold, linear between two epochs."""
    sign = 1 if mode == "max" else -1
    ends = np.append(np.flatnonzero(np.diff(series.epochs)), len(series.epochs) - 1)  # the last of each epoch
    epochs, values = series.epochs[ends] + 1, sign * series.means[ends]
    over = np.flatnonzero(values >= sign * threshold)
    if not over.size:
        trained = number(run.summary.get("epochs"))
        return None if trained is None else Value(trained, reached=False)
    first = int(over[0])
    if first == 0:
        return Value(float(epochs[0]))
    share = (sign * threshold - values[first - 1]) / (values[first] - values[first - 1])
    return Value(float(epochs[first - 1] + share * (epochs[first] - epochs[first - 1])))
