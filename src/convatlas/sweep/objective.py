"""What a sweep looks for, read from the record of a run."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from convatlas.errors import DivergedError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lines import LineReader
from convatlas.record.quantities import terminal_text


@dataclass(frozen=True)
class Objective:
    """One figure of a run, and which way is better.

    Args:
        metric: A metric of the tuning split (``val/top1``), whose best epoch counts; or a figure of the run's summary:
            ``parameters``, ``train_seconds``.
        mode: Whether a larger one is better, or a smaller one.

    Raises:
        UserError: A metric of the reported split, which is not for choosing; or of none.
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
        """Whether the record has it after each epoch."""
        return "/" in self.metric

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Optuna's word for the mode."""
        return "maximize" if self.mode == "max" else "minimize"

    def of(self, run: RunDirectory) -> float:
        """Its value for a finished run.

        Raises:
            DivergedError: It is no finite number at any epoch.
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
        """A value for a person."""
        if value is None:
            return ""
        return terminal_text(self.metric, value) if self.by_epoch else f"{value:,.10g}"


def number(value: Any) -> float:
    """A number of a record, where those that JSON has no word for stand as text."""
    return float(value)
