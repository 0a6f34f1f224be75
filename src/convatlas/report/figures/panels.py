"""Dashboards and their panels: constructors of ``conf/dashboard/*.yaml``, for the local page and for W&B."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from convatlas.record.quantities import metric_label

Axis = Literal["step", "epoch", "hours"]


@dataclass(frozen=True)
class Panel:
    """A figure of curves.

    Attributes:
        title: Its heading.
        metrics: Names of metrics such as ``train/loss``. Metrics that no run logged are left out.
        axis: The horizontal axis: optimizer steps, epochs, or hours since the first line of the record.
        group: Draw runs that differ only in the seed as one curve, their mean with a band of one standard deviation.
            Otherwise every run is a curve.
        smoothing: Weight of the exponential moving mean of the training metrics, as in W&B; 0 is no smoothing.
        logarithmic: Draw the values on a logarithmic axis.
        from_zero: Let the vertical axis begin at zero, so that small variations look small.
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
        panels: The panels by short name.
        others: Add a panel for each logged quantity of training and validation that no panel shows.
    """

    title: str
    panels: dict[str, Panel]
    others: bool = True

    def panels_for(self, logged: Iterable[str]) -> dict[str, Panel]:
        """The panels with their logged metrics. Panels without one are left out, and further panels follow if wanted.

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
