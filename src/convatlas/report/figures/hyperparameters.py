"""Parallel coordinates: an axis for each hyper-parameter in which groups differ, and one for the result."""

import html
import math
from collections.abc import Sequence

from convatlas.record.groups import Group, differing_keys, metric_names, short_key, value_text
from convatlas.record.quantities import lower_is_better, metric_label, metric_text, spread_text
from convatlas.record.reader import number
from convatlas.report.figures.curves import Figure

AXES = 8
"""Most hyper-parameters that are drawn, in the order of the configuration; the table has all."""
TICK_DISTANCE = 0.1
"""Smallest distance of two labels of an axis, as a share of its length."""
LOGARITHMIC_FROM = 20.0
"""Smallest ratio of the largest to the smallest positive value for a logarithmic axis."""
SHADES = 4
"""Number of colours from the worst to the best group: ``--heat-2`` and on."""


def parallel_coordinates(groups: Sequence[Group]) -> Figure | None:
    """Draw each group as a line through its hyper-parameters to its first final metric.

    Args:
        groups: The groups of a page.

    Returns:
        The figure; None if fewer than two groups have a result, or the groups have the same hyper-parameters.
    """
    names = metric_names([run for group in groups for run in group.runs])
    results = [(i, group, found) for i, group in enumerate(groups) if names and (found := group.statistic(names[0]))]
    keys = differing_keys(groups)[:AXES]
    if len(results) < 2 or not keys:
        return None
    axes = [_Axis([group.settings[key] for _, group, _ in results]) for key in keys]
    outcome = _Axis([found.mean for _, _, found in results], log=False)
    order = sorted(range(len(results)), key=lambda row: results[row][2].mean, reverse=lower_is_better(names[0]))
    metric = html.escape(metric_label(names[0]))
    traces: list[Figure] = []
    for rank, row in enumerate(order):  # the best is drawn last, on top
        position, group, found = results[row]
        shade = 2 + rank * SHADES // len(order)
        told = "<br>".join(f"{html.escape(short_key(key))}: {_text(group.settings[key])}" for key in keys)
        result = spread_text(names[0], found.mean, found.deviation)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": html.escape(group.label),
                "meta": {"group": position},
                "x": list(range(len(axes) + 1)),
                "y": [axis.places[row] for axis in [*axes, outcome]],
                "line": {"color": f"var(--heat-{shade})", "width": 1.6},
                "marker": {"size": 5},
                "hovertemplate": f"<b>%{{fullData.name}}</b><br>{told}<br>{metric}: <b>{result}</b><extra></extra>",
            }
        )
    ticks = [[(place, _text(value)) for place, value in axis.ticks()] for axis in axes]
    ticks.append([(place, metric_text(names[0], value)) for place, value in outcome.ticks()])
    titles = [*(html.escape(short_key(key)) for key in keys), f"<b>{metric}</b>"]
    return {"data": traces, "layout": _layout(titles, ticks)}


def _layout(titles: Sequence[str], ticks: Sequence[Sequence[tuple[float, str]]]) -> Figure:
    """The axes with their titles; ``ticks`` holds the position and text of the labels of each axis."""
    notes = [
        {
            "x": at,
            "y": place,
            "text": text,
            "showarrow": False,
            "xanchor": "left",
            "xshift": 6,
            "font": {"size": 11},
            "bgcolor": "var(--surface)",
        }
        for at, written in enumerate(ticks)
        for place, text in written
    ]
    line = {"type": "line", "y0": 0, "y1": 1, "line": {"color": "var(--muted)", "width": 1}}
    return {
        "height": 400,
        "margin": {"l": 24, "r": 84, "t": 34, "b": 12},
        "showlegend": False,
        "hovermode": "closest",
        "annotations": notes,
        "shapes": [line | {"x0": at, "x1": at} for at in range(len(ticks))],
        "xaxis": {
            "side": "top",
            "showgrid": False,
            "showline": False,
            "range": [-0.08, len(ticks) - 1 + 0.08],
            "tickvals": list(range(len(ticks))),
            "ticktext": list(titles),
            "fixedrange": True,
        },
        "yaxis": {"visible": False, "range": [-0.05, 1.05], "fixedrange": True},
    }


def _text(value: object) -> str:
    text = value_text(value)
    return html.escape(text if len(text) <= 24 else text[:23] + "…")


class _Axis:
    """Positions from 0 to 1 for the values of one column: numbers to scale, other values at equal distances."""

    def __init__(self, values: Sequence[object], log: bool = True) -> None:
        numeric = [found for v in values if not isinstance(v, bool) and (found := number(v)) is not None]
        self.values = values
        self.numeric = len(numeric) == len(values)
        if self.numeric:
            low, high = min(numeric), max(numeric)
            self.log = log and low > 0 and high / low >= LOGARITHMIC_FROM
            scaled = [math.log(v) if self.log else v for v in numeric]
            start, span = min(scaled), (max(scaled) - min(scaled)) or 1.0
            self.places = [round((v - start) / span, 4) for v in scaled]
        else:
            distinct = sorted({value_text(v) for v in values})
            self.places = [distinct.index(value_text(v)) / max(len(distinct) - 1, 1) for v in values]

    def ticks(self) -> list[tuple[float, object]]:
        """The values to label, with their positions: both ends, and values between them that are far enough apart."""
        found = sorted(dict(zip(self.places, self.values, strict=True)).items())
        chosen = [found[0], found[-1]] if len(found) > 1 else found
        for tick in found:
            if all(abs(tick[0] - place) >= TICK_DISTANCE for place, _ in chosen):
                chosen.append(tick)
        return chosen
