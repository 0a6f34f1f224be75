"""What a dashboard shows: constructors of ``conf/dashboard/*.yaml``, drawn by the local page and by W&B alike."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from convatlas.record.quantities import metric_label

Axis = Literal["step", "epoch", "hours"]


@dataclass(frozen=True)
class Panel:
    """One figure of curves.

    Attributes:
        title: What stands above it.
        metrics: The metrics as they are logged, such as ``train/loss``; those that no run logged are left out.
        axis: What the curves run over: optimizer steps, epochs, or hours since the first line of the record.
        group: Draw the runs that differ in nothing but the seed as one curve, their mean with a band of one
            standard deviation; else every run is a curve.
        smoothing: Weight of the exponential moving mean of the training metrics, as in W&B; 0 draws what was logged.
        logarithmic: Draw the values on a logarithmic axis.
        from_zero: Let the axis of the values begin at zero, so that small jitter looks small.
    """

    title: str
    metrics: list[str]
    axis: Axis = "step"
    group: bool = True
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    logarithmic: bool = False
    from_zero: bool = False


@dataclass(frozen=True)
class Dashboard:
    """The panels of a page, top to bottom.

    Attributes:
        title: The name of the page, and of the W&B workspace.
        panels: The panels by a short name.
        others: Add a panel for each quantity of training and validation that the runs logged and no panel shows.
    """

    title: str
    panels: dict[str, Panel]
    others: bool = True

    def panels_for(self, logged: Iterable[str]) -> dict[str, Panel]:
        """The panels that have something to show: each with the metrics that were logged, and then the others.

        Args:
            logged: Names of the metrics that the runs logged.
        """
        names = sorted(set(logged))
        shown = {
            key: replace(panel, metrics=found)
            for key, panel in self.panels.items()
            if (found := [metric for metric in panel.metrics if metric in names])
        }
        if self.others:
            known = {metric for panel in shown.values() for metric in panel.metrics}
            rest: dict[str, list[str]] = {}
            for name in names:
                if name not in known and name.startswith(("train/", "val/")):
                    rest.setdefault(name.partition("/")[2], []).append(name)
            for quantity, metrics in rest.items():
                shown[quantity] = Panel(metric_label(quantity), metrics)
        return shown
