"""Plotly figures of a run, as plain dictionaries.

A colour is the name of a variable of the page's style sheet, ``var(--ink)``: the page's script puts the value in,
so that a figure follows the light or dark scheme of the reader. Names from the user are escaped, as Plotly
reads a little HTML in text.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.report.run_record import RunRecord, Series, number
from convatlas.report.series import SMOOTHED_FROM, smooth, thin

Figure = dict[str, Any]

COLOURS = 8
"""Series colours in the style sheet, ``--series-0`` and on."""

DASHES = ("solid", "dash", "dot")
"""Told apart when the colours are used up."""

NAMED_CLASSES = 20
"""Up to this many classes, all are named and each cell of the confusion matrix carries its count."""

MARKED = {"train": 40, "val": 200}
"""A curve of up to so many points shows each as a marker."""


@dataclass(frozen=True)
class Panel:
    """How one quantity is drawn: its title, and d3 formats for the axis and for a value."""

    title: str
    axis_format: str
    value_format: str


DETECTION = {
    "map": "mAP",
    "map_50": "mAP at an IoU of 0.50",
    "map_75": "mAP at an IoU of 0.75",
    "map_small": "mAP of small objects",
    "map_medium": "mAP of medium objects",
    "map_large": "mAP of large objects",
    "mar_100": "mean recall of 100 detections an image",
}
"""Titles of COCO's figures, which there are of boxes and of masks."""

PANELS = {
    "loss": Panel("Loss", "~g", ".4f"),
    "top1": Panel("Top-1 accuracy", ".0%", ".2%"),
    "top5": Panel("Top-5 accuracy", ".0%", ".2%"),
    "mean_iou": Panel("Mean intersection over union", ".0%", ".2%"),
    "pixel_accuracy": Panel("Pixel accuracy", ".0%", ".2%"),
    "mean_accuracy": Panel("Mean accuracy of the classes", ".0%", ".2%"),
    "frequency_weighted_iou": Panel("Frequency-weighted intersection over union", ".0%", ".2%"),
    **{
        f"{kind}_{figure}": Panel(f"{kind.capitalize()} {title}", ".0%", ".2%")
        for figure, title in DETECTION.items()
        for kind in ("box", "mask")
    },
    "learning_rate": Panel("Learning rate", "~g", ".4g"),
    "images_per_second": Panel("Throughput (images per second)", "~s", ",.0f"),
    "data_wait": Panel("Time spent waiting for data", ".0%", ".1%"),
}
"""The quantities in the order of the page; others that a run logs follow, by name."""

SPLITS = {"train": "Train", "val": "Validation"}
EXACT = ("learning_rate",)
"""Quantities without noise: drawn as they are."""

FROM_ZERO = ("images_per_second", "data_wait")
"""Quantities whose axis starts at zero, so that small jitter looks small."""


@dataclass(frozen=True)
class Curves:
    """One panel of curves: what it shows, its title and its figure."""

    quantity: str
    title: str
    figure: Figure


def curves(runs: Sequence[RunRecord], labels: Sequence[str]) -> list[Curves]:
    """Draw every quantity that the runs logged while training, all runs in one figure.

    One run: a colour for each split, the logged values thin behind their smoothed line. Several runs: a colour
    for each run, training smoothed and thin, validation with markers. A curve keeps at most
    ``series.MAX_POINTS`` points.

    Args:
        runs: The runs.
        labels: What each is called in the figures.
    """
    logged = {name.partition("/")[2] for run in runs for name in run.series if name.partition("/")[0] in SPLITS}
    quantities = [*(q for q in PANELS if q in logged), *sorted(logged - PANELS.keys())]
    last = max((int(series.steps[-1]) for run in runs for series in run.series.values()), default=0)
    return [_panel(quantity, runs, labels, last) for quantity in quantities]


def _panel(quantity: str, runs: Sequence[RunRecord], labels: Sequence[str], last: int) -> Curves:
    panel = PANELS.get(quantity, Panel(quantity.replace("_", " ").capitalize(), "~g", ".4g"))
    several = len(runs) > 1
    traces: list[Figure] = []
    for index, run in enumerate(runs):
        for split in SPLITS:
            if f"{split}/{quantity}" not in run.series:
                continue
            series = run.series[f"{split}/{quantity}"]
            noisy = split == "train" and quantity not in EXACT and len(series.values) >= SMOOTHED_FROM
            colour = index % COLOURS if several else int(split == "train")
            name = f"{labels[index]}, {split}" if several else SPLITS[split]
            shared = {
                "type": "scatter",
                "name": html.escape(name),
                "meta": {"run": index},
                "line": {
                    "color": f"var(--series-{colour})",
                    "width": 1.5 if split == "train" else 2.2,
                    "dash": DASHES[index // COLOURS % len(DASHES)],
                },
            }
            if noisy and not several:
                traces.append(shared | _logged_points(series))
            traces.append(shared | _line(series, noisy, split, panel.value_format))
    layout = {
        "height": 300,
        "margin": {"l": 58, "r": 16, "t": 12 if several else 34, "b": 44},
        "showlegend": not several,
        "hovermode": "closest" if several else "x",
        "xaxis": {
            "title": {"text": "optimizer step"},
            "range": [0, 1.02 * max(last, 1)],
            "hoverformat": ",d",
            "tickformat": "~s",
        },
        "yaxis": {"tickformat": panel.axis_format, "rangemode": "tozero" if quantity in FROM_ZERO else "normal"},
    }
    return Curves(quantity, panel.title, {"data": traces, "layout": layout})


def _logged_points(series: Series) -> Figure:
    kept = thin(series.values)
    return {
        "mode": "lines",
        "opacity": 0.3,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": series.steps[kept].tolist(),
        "y": _gaps(series.values[kept]),
    }


def _line(series: Series, noisy: bool, split: str, value_format: str) -> Figure:
    values = smooth(series.values) if noisy else series.values
    kept = thin(values)
    value = f"<b>%{{customdata[0]:{value_format}}}</b>" + (f", smoothed %{{y:{value_format}}}" if noisy else "")
    logged = zip(_gaps(series.values[kept]), series.epochs[kept].tolist(), strict=True)
    return {
        "mode": "lines+markers" if len(values) <= MARKED[split] else "lines",
        "marker": {"size": 6, "symbol": "circle-open" if split == "train" else "circle"},
        "x": series.steps[kept].tolist(),
        "y": _gaps(values[kept]),
        "customdata": [list(pair) for pair in logged],
        "hovertemplate": f"%{{fullData.name}}<br>step %{{x:,d}}, epoch %{{customdata[1]}}: {value}<extra></extra>",
    }


def _gaps(values: NDArray[np.float64]) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def shorten(name: str, limit: int = 18) -> str:
    """Cut a long name for an axis; the tooltip has the whole."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def confusion_matrix(evaluation: Mapping[str, Any]) -> Figure:
    """Heat-map of an evaluation: true classes in rows, predicted ones in columns.

    The colour is the share of the true class; the tooltip carries the count, and so does the cell as long as
    there are at most ``NAMED_CLASSES`` classes.
    """
    counts = np.array(evaluation["confusion_matrix"], dtype=np.int64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = [str(name) for name in evaluation["classes"]]
    names = [html.escape(name) for name in classes]
    named = len(names) <= NAMED_CLASSES
    ticks = range(0, len(names), -(-len(names) // NAMED_CLASSES))
    trace: Figure = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": np.round(shares, 4).tolist(),
        "customdata": counts.tolist(),
        "zmin": 0,
        "zmax": 1,
        # Most of a good matrix lies near 0: the colours there are spread, so that single confusions show.
        "colorscale": [[at, f"var(--heat-{step})"] for step, at in enumerate((0, 0.02, 0.1, 0.3, 0.6, 1))],
        "colorbar": {"tickformat": ".0%", "thickness": 10, "outlinewidth": 0, "ypad": 0},
        "hovertemplate": "true: <b>%{y}</b><br>predicted: <b>%{x}</b><br>"
        "%{customdata:,d} images, %{z:.1%} of the true class<extra></extra>",
    }
    if named:
        trace["text"] = [[str(count) if count else "" for count in row] for row in counts.tolist()]
        trace |= {"texttemplate": "%{text}", "textfont": {"size": 12 if len(names) <= 12 else 9}, "xgap": 1, "ygap": 1}
    axis = {
        "type": "category",
        "tickvals": [names[tick] for tick in ticks],
        "ticktext": [html.escape(shorten(classes[tick])) for tick in ticks],
        "showgrid": False,
        "showline": False,
        "automargin": True,
    }
    layout = {
        "height": 540,
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "xaxis": axis | {"title": {"text": "predicted"}, "tickangle": -45},
        "yaxis": axis | {"title": {"text": "true"}, "autorange": "reversed"},
    }
    return {"data": [trace], "layout": layout}


def class_accuracies(evaluation: Mapping[str, Any]) -> Figure:
    """Bars of the accuracy of each class that has samples, the best first."""
    rows = [
        (accuracy, row["count"], str(row["class"]))
        for row in evaluation["per_class"]
        if (accuracy := number(row["accuracy"])) is not None
    ]
    rows.sort(key=lambda row: row[0], reverse=True)
    accuracies = [round(row[0], 5) for row in rows]
    names = [html.escape(row[2]) for row in rows]
    mean = sum(accuracies) / max(len(accuracies), 1)
    upright = len(rows) > 2 * NAMED_CLASSES
    value, category = ("y", "x") if upright else ("x", "y")
    trace: Figure = {
        "type": "bar",
        "orientation": "v" if upright else "h",
        value: accuracies,
        category: names,
        "customdata": [row[1] for row in rows],
        "marker": {"color": "var(--bar)"},
        "hovertemplate": f"<b>%{{{category}}}</b><br>%{{{value}:.1%}} of %{{customdata:,d}} images<extra></extra>",
    }
    if not upright:
        trace |= {"texttemplate": "%{x:.1%}", "textposition": "auto", "insidetextanchor": "end", "cliponaxis": False}
    line = {f"{value}0": mean, f"{value}1": mean, f"{category}0": 0, f"{category}1": 1, f"{category}ref": "paper"}
    layout = {
        "height": 540 if upright else max(220, min(540, 90 + 46 * len(rows)), 60 + 20 * len(rows)),
        "bargap": 0.25 if len(rows) <= 100 else 0,
        "margin": {
            "l": 58 if upright else 34 + 6 * max((len(shorten(row[2])) for row in rows), default=0),
            "r": 24,
            "t": 8,
            "b": 44,
        },
        f"{value}axis": {"tickformat": ".0%", "range": [0, 1], "title": {"text": "accuracy"}, "automargin": True},
        f"{category}axis": {
            "type": "category",
            "showgrid": False,
            "title": {"text": f"{len(rows):,} classes, sorted" if upright else None},
            "showticklabels": not upright,
            "tickvals": None if upright else names,
            "ticktext": None if upright else [html.escape(shorten(row[2])) for row in rows],
            "autorange": True if upright else "reversed",
            "automargin": True,
        },
        "shapes": [line | {"type": "line", "line": {"color": "var(--muted)", "width": 1.5, "dash": "dot"}}],
    }
    return {"data": [trace], "layout": layout}
