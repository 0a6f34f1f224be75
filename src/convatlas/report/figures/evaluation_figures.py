"""Plotly figures of an evaluation: the confusion matrix and the accuracy of each class."""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from convatlas.record.reader import number
from convatlas.report.figures.curves import Figure

NAMED_CLASSES = 20
"""With at most this many classes, all are named and each cell of the confusion matrix shows its count."""


def shorten(name: str, limit: int = 18) -> str:
    """Shorten a name for an axis; the tooltip shows the full name."""
    return name if len(name) <= limit else name[: limit - 1] + "…"


def confusion_matrix(evaluation: Mapping[str, Any]) -> Figure:
    """Draw the confusion matrix as a heat map: true classes in rows, predicted classes in columns.

    The colour is the share of the true class. The tooltip shows the count, and so does the cell with at most
    ``NAMED_CLASSES`` classes.
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
    """Draw the accuracy of each class with samples as bars, the best first."""
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
