"""Draw curves as Plotly figures, which are plain dictionaries.

A colour is the name of a variable of the style sheet, such as ``var(--ink)``. The script of the page replaces it, so
that figures follow the light or dark scheme of the browser. Names from the user are escaped, because Plotly
interprets some HTML in text.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.record.groups import Group
from convatlas.record.quantities import is_fraction, split_name
from convatlas.record.reader import RunRecord
from convatlas.record.series import MAX_BUCKETS, Series, bounded, coarsen, smooth
from convatlas.report.figures.panels import Axis, Panel

Figure = dict[str, Any]

COLOURS = 8
"""Number of series colours in the style sheet: ``--series-0`` and on."""

DASHES = ("solid", "dash", "dot")
"""Line styles that distinguish curves of the same colour."""

POINTS = 200_000
"""Maximum number of points of all curves of a page. A browser draws so many without delay."""
FEWEST_BUCKETS = 64
"""Minimum number of buckets of a curve, for any number of curves."""

MARKED = {"train": 40, "val": 200}
"""Maximum number of points of a curve that is drawn with markers, by split."""

TITLES: dict[Axis, str] = {"step": "optimizer step", "epoch": "epoch", "hours": "hours since the start"}


@dataclass(frozen=True)
class Curve:
    """One line of a panel: a metric of a run, or of the runs of a group.

    Attributes:
        label: Name of the run or group.
        runs: One or more runs that have the metric.
        meta: Position of the group or run on the page, for the filter.
        position: Its position among the curves, which gives its colour.
    """

    label: str
    runs: Sequence[RunRecord]
    meta: dict[str, int]
    position: int


def panel_figure(panel: Panel, groups: Sequence[Group], limit: int = MAX_BUCKETS) -> Figure:
    """Draw a panel over the groups of a page.

    A single curve has a colour for each metric. Several curves have a colour each, with thin lines for training and
    thick ones for validation. The logged values lie behind a smoothed curve, unless there are more curves than
    colours. The curve of one run shows the extremes of each bucket. The curve of several runs shows their mean with a
    band of one standard deviation.

    Args:
        panel: The panel; each of its metrics was logged by some run.
        groups: The groups of the page, in order.
        limit: Maximum number of buckets of a curve.
    """
    curves = _curves(panel, groups)
    traces: list[Figure] = []
    for curve in curves:
        for order, metric in enumerate(panel.metrics):
            runs = [run for run in curve.runs if metric in run.series]
            if runs:
                traces += _traces(panel, curve, metric, order, runs, len(curves), limit)
    several = len(curves) > 1
    share = all(is_fraction(metric) for metric in panel.metrics)
    number_format = "~s" if panel.from_zero else "~g"
    layout = {
        "height": 300,
        "margin": {"l": 58, "r": 16, "t": 12 if several else 34, "b": 44},
        "showlegend": not several,
        "hovermode": "closest" if several else "x",
        "xaxis": {
            "title": {"text": TITLES[panel.axis]},
            "rangemode": "tozero",
            "hoverformat": ",d" if panel.axis != "hours" else ".2f",
            "tickformat": "~s" if panel.axis == "step" else "~g",
        },
        "yaxis": {
            "tickformat": ".0%" if share else number_format,
            "rangemode": "tozero" if panel.from_zero else "normal",
            "type": "log" if panel.logarithmic else "linear",
        },
    }
    return {"data": traces, "layout": layout}


def buckets_per_curve(panels: Sequence[Panel], groups: Sequence[Group]) -> int:
    """Return the maximum number of buckets of each curve, so that all curves together stay within ``POINTS``."""
    curves = sum(len(_curves(panel, groups)) * len(panel.metrics) for panel in panels)
    return max(FEWEST_BUCKETS, min(MAX_BUCKETS, POINTS // max(curves, 1)))


def _curves(panel: Panel, groups: Sequence[Group]) -> list[Curve]:
    if panel.group:
        return [Curve(group.label, group.runs, {"group": i}, i) for i, group in enumerate(groups)]
    runs = [(group, run) for group in groups for run in group.runs]
    return [
        Curve(group.label if len(group.runs) == 1 else run.run_id, [run], {"run": i}, i)
        for i, (group, run) in enumerate(runs)
    ]


def _traces(
    panel: Panel, curve: Curve, metric: str, order: int, runs: Sequence[RunRecord], curves: int, limit: int
) -> list[Figure]:
    split = split_name(metric)
    colour = order if curves == 1 else curve.position % COLOURS
    name = f"{curve.label}, {split.lower()}" if curves > 1 else split
    series = [bounded(run.series[metric], limit) for run in runs]
    width = max(found.width for found in series)
    series = [coarsen(found, width) for found in series]
    x = [_axis(found, run, panel.axis) for found, run in zip(series, runs, strict=True)]
    weight = panel.smoothing if metric.startswith("train/") else 0.0
    smoothed = [smooth(at, found.means, weight) for at, found in zip(x, series, strict=True)]
    shared: Figure = {
        "type": "scatter",
        "name": html.escape(name),
        "meta": curve.meta,
        "line": {
            "color": f"var(--series-{colour})",
            "width": 1.5 if metric.startswith("train/") else 2.2,
            "dash": "solid" if curves == 1 else DASHES[curve.position // COLOURS % len(DASHES)],
        },
    }
    value_format = ".2%" if is_fraction(metric) else ".4g"
    if len(runs) > 1:
        return _mean_and_band(shared, series, x, smoothed, value_format, panel.axis)
    shared |= _markers(metric, len(series[0].steps))
    if weight and curves <= COLOURS:
        line = _smoothed_line(shared, series[0], x[0], smoothed[0], value_format, panel.axis)
        return [_logged(shared, series[0], x[0]), line]
    if weight:
        return [_plain_line(shared, x[0], smoothed[0], value_format, panel.axis)]
    return [_plain_line(shared, *_extremes(series[0], x[0]), value_format, panel.axis)]


def _axis(series: Series, run: RunRecord, axis: Axis) -> NDArray[np.float64]:
    if axis == "step":
        return series.steps.astype(np.float64)
    if axis == "epoch":
        return series.epochs.astype(np.float64)
    start = min(float(other.times[0]) for other in run.series.values())
    return (series.times - start) / 3600


def _extremes(series: Series, x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and the largest value of each bucket, as one point if they are equal."""
    kept = np.stack([np.ones(len(x), dtype=bool), series.highs > series.lows], axis=1).ravel()
    return np.repeat(x, 2)[kept], np.stack([series.lows, series.highs], axis=1).ravel()[kept]


def _logged(shared: Figure, series: Series, x: NDArray[np.float64]) -> Figure:
    at, values = _extremes(series, x)
    return shared | {
        "mode": "lines",
        "opacity": 0.3,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": positions(at),
        "y": numbers(values),
    }


def _plain_line(
    shared: Figure, x: NDArray[np.float64], y: NDArray[np.float64], value_format: str, axis: Axis
) -> Figure:
    return shared | {
        "x": positions(x),
        "y": numbers(y),
        "hovertemplate": f"%{{fullData.name}}<br>{axis} %{{x}}: <b>%{{y:{value_format}}}</b><extra></extra>",
    }


def _smoothed_line(
    shared: Figure, series: Series, x: NDArray[np.float64], y: NDArray[np.float64], value_format: str, axis: Axis
) -> Figure:
    return shared | {
        "x": positions(x),
        "y": numbers(y),
        "customdata": [list(pair) for pair in zip(numbers(series.means), series.epochs.tolist(), strict=True)],
        "hovertemplate": f"%{{fullData.name}}<br>{axis} %{{x}}, epoch %{{customdata[1]}}: "
        f"<b>%{{customdata[0]:{value_format}}}</b>, smoothed %{{y:{value_format}}}<extra></extra>",
    }


def _mean_and_band(
    shared: Figure,
    series: Sequence[Series],
    x: Sequence[NDArray[np.float64]],
    values: Sequence[NDArray[np.float64]],
    value_format: str,
    axis: Axis,
) -> list[Figure]:
    """Draw the mean over the runs that have a value, and a band of one standard deviation (N - 1).

    The buckets of all series have the same width.
    """
    buckets = np.unique(np.concatenate([found.buckets for found in series]))
    where, table = (np.full((len(series), len(buckets)), np.nan) for _ in range(2))
    for row, found in enumerate(series):
        column = np.searchsorted(buckets, found.buckets)
        where[row, column], table[row, column] = x[row], values[row]
    counts = np.isfinite(table).sum(axis=0)
    filled = np.where(np.isfinite(table), table, 0.0)
    means = np.divide(filled.sum(axis=0), counts, out=np.full(len(buckets), np.nan), where=counts > 0)
    squares = np.where(np.isfinite(table), (table - means) ** 2, 0.0).sum(axis=0)
    deviations = np.sqrt(squares / np.maximum(counts - 1, 1))
    at = np.nanmean(where, axis=0)
    banded = counts > 1
    band = shared | {
        "mode": "lines",
        "fill": "toself",
        "fillcolor": shared["line"]["color"],
        "line": {"width": 0, "color": shared["line"]["color"]},
        "opacity": 0.18,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": positions(np.concatenate([at[banded], at[banded][::-1]])),
        "y": numbers(np.concatenate([(means + deviations)[banded], (means - deviations)[banded][::-1]])),
    }
    line = shared | {
        "mode": "lines",
        "x": positions(at),
        "y": numbers(means),
        "customdata": [list(pair) for pair in zip(numbers(deviations), counts.tolist(), strict=True)],
        "hovertemplate": f"%{{fullData.name}}<br>{axis} %{{x}}: <b>%{{y:{value_format}}}</b> "
        f"± %{{customdata[0]:{value_format}}}, %{{customdata[1]}} of {len(series)} runs<extra></extra>",
    }
    return [band, line]


def _markers(metric: str, count: int) -> Figure:
    train = metric.startswith("train/")
    return {
        "mode": "lines+markers" if count <= MARKED["train" if train else "val"] else "lines",
        "marker": {"size": 6, "symbol": "circle-open" if train else "circle"},
    }


def numbers(values: NDArray[np.float64]) -> list[float | None]:
    """Round values to six significant digits for JSON. Non-finite values become None, which Plotly draws as gaps."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]


def positions(x: NDArray[np.float64]) -> list[float]:
    """Convert positions on the axis for JSON: steps and epochs to integers, hours to four decimals."""
    return [int(value) if value.is_integer() else round(value, 4) for value in x.tolist()]
