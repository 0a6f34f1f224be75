"""The objective of a sweep: its value for a finished run, and its values by epoch, by which the pruner ends trials."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from optuna.trial import Trial

from convatlas.errors import DivergedError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lines import LineReader
from convatlas.record.quantities import terminal_text


@dataclass(frozen=True)
class Objective:
    """A figure of a run that a sweep optimizes, and its direction.

    Args:
        metric: A metric of the tuning split (``val/top1``), of which the best epoch counts, or an entry of the run's
            summary: ``parameters``, ``train_seconds``.
        mode: Whether a larger or a smaller value is better.

    Raises:
        UserError: The metric is of another split: choosing by the reported split would bias its result.
    """

    metric: str
    mode: Literal["max", "min"]

    def __post_init__(self) -> None:
        if "/" in self.metric and not self.metric.startswith("val/"):
            raise UserError(
                f"objective.metric={self.metric}: expected one of the tuning split, such as val/top1, or a figure of "
                "summary.json; the reported split is not for choosing"
            )

    @property
    def by_epoch(self) -> bool:
        """Whether the metric is recorded after each epoch."""
        return "/" in self.metric

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The mode as Optuna spells it."""
        return "maximize" if self.mode == "max" else "minimize"

    def of(self, run: RunDirectory) -> float:
        """The value of the objective for a finished run.

        Raises:
            DivergedError: The value is not finite at any epoch.
            UserError: The run has no such figure.
        """
        if not self.by_epoch:
            found = run.summary.get(self.metric)
            if not isinstance(found, int | float):
                known = [name for name, value in run.summary.items() if isinstance(value, int | float)]
                raise UserError(f"objective.metric={self.metric}: summary.json has {', '.join(known)}")
            return float(found)
        lines = LineReader(run.metrics).new()
        recorded = [number(line[self.metric]) for line in lines if self.metric in line]
        if not recorded:
            known = sorted({name for line in lines for name in line if name.startswith("val/")})
            raise UserError(f"objective.metric={self.metric}: the record has {', '.join(known)}")
        values = [value for value in recorded if math.isfinite(value)]
        if not values:
            raise DivergedError(f"{self.metric} is never finite")
        return max(values) if self.mode == "max" else min(values)

    def text(self, value: float | None) -> str:
        """A value as text."""
        if value is None:
            return ""
        return terminal_text(self.metric, value) if self.by_epoch else f"{value:,.10g}"


def number(value: Any) -> float:
    """A number of a record, in which non-finite numbers are texts such as ``NaN``."""
    return float(value)


class Reports:
    """Reads the record of a run while it trains and reports the objective to the pruner after each epoch.

    Args:
        trial: The trial, whose sweep has one objective. A continued trial has its earlier reports.
        objective: The objective.
        run: Its run.
        max_epochs: Epochs of the run. After the last epoch the run is not pruned.
    """

    def __init__(self, trial: Trial, objective: Objective, run: RunDirectory, max_epochs: int) -> None:
        self._trial = trial
        self._objective = objective
        self._max_epochs = max_epochs
        self._lines = LineReader(run.metrics)
        self._reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def should_prune(self) -> bool:
        """Report the epochs since the last call; return whether the trial should end."""
        for line in self._lines.new():
            if self._objective.metric not in line:
                continue
            epochs = line["epoch"] + 1
            if epochs not in self._reported:
                self._reported.add(epochs)
                self._trial.report(float(line[self._objective.metric]), epochs)
            if epochs < self._max_epochs and self._trial.should_prune():
                return True
        return False
