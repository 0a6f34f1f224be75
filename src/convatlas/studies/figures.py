"""The figures of a study: every seed as a dot, means over the factor, and training curves."""

import html
import math
from collections.abc import Mapping, Sequence

from convatlas.record.groups import Group, short_key, value_text
from convatlas.record.quantities import is_fraction, metric_label
from convatlas.report.figures.curves import COLOURS, Figure, panel_figure
from convatlas.report.figures.panels import Panel
from convatlas.studies.design import Study
from convatlas.studies.outcome import Result, StudyOutcome
from convatlas.studies.tables import figure_label, number_text, result_text

ROW_HEIGHT = 46
"""Height of the row of an arm, in pixels."""
JITTER = 0.16
"""Spread of the dots of the seeds around their arm, in rows."""
LOGARITHMIC_FROM = 10.0
"""Ratio of the largest to the smallest value of the factor from which on its axis is logarithmic."""


def dots(outcome: StudyOutcome, groups: Mapping[str, int]) -> Figure:
    """Draw every arm as a row: a dot for each seed, the mean and a bar of one standard deviation.

    Args:
        outcome: The outcome. Arms are drawn at their chosen value of the factor.
        groups: Position of the group of runs of each label, which gives its colour.
    """
    study = outcome.study
    results = [result for result in outcome.results if result.chosen]
    traces = [
        trace
        for row, result in enumerate(results)
        if result.values
        for trace in (
            _seeds(study, result, [row + JITTER * place for place in _spread(len(result.values))], groups, across=True),
            _mean(study, result, row, groups),
        )
    ]
    layout = _layout(study, "xaxis") | {
        "height": 74 + ROW_HEIGHT * len(results),
        "margin": {"l": 16, "r": 24, "t": 10, "b": 50},
        "hovermode": "closest",
        "showlegend": False,
        "yaxis": {
            "tickvals": list(range(len(results))),
            "ticktext": [html.escape(result.label) for result in results],
            "range": [len(results) - 0.5, -0.5],
            "automargin": True,
            "showgrid": False,
            "fixedrange": True,
        },
    }
    return {"data": traces, "layout": layout}


def over_factor(outcome: StudyOutcome, groups: Mapping[str, int]) -> Figure:
    """Draw the figures over the values of the factor: a line through the means of each arm, and every seed."""
    study, factor = outcome.study, outcome.study.factor
    if factor is None:
        raise ValueError("the study has no factor")
    values = factor.values
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    numbers = [float(value) for value in values] if numeric else []
    logarithmic = numeric and min(numbers) > 0 and max(numbers) / min(numbers) >= LOGARITHMIC_FROM
    places = numbers if numeric else [float(place) for place in range(len(values))]
    traces = []
    for number, (name, arm) in enumerate(study.arms.items()):
        results = [result for result in outcome.results if result.cell.arm == name]
        found = [(place, result) for place, result in zip(places, results, strict=True) if result.values]
        colour = f"var(--series-{number % COLOURS})"
        traces.append(_arm_line(study, arm.label, found, colour))
        traces += [
            _seeds(study, result, [place] * len(result.values), groups, across=False)
            | {"marker": {"color": colour, "size": 5, "opacity": 0.6}}
            for place, result in found
        ]
    axis = {"tickvals": places, "ticktext": [html.escape(value_text(value)) for value in values]}
    layout = _layout(study, "yaxis") | {
        "height": 340,
        "margin": {"l": 64, "r": 20, "t": 34, "b": 48},
        "hovermode": "closest",
        "showlegend": True,
        "xaxis": {
            "title": {"text": html.escape(short_key(factor.key).replace("_", " "))},
            "type": "log" if logarithmic else "linear",
            **axis,
        },
    }
    return {"data": traces, "layout": layout}


def curves(study: Study, groups: Sequence[Group]) -> dict[str, tuple[str, Figure]]:
    """Draw the curves of the metric by epoch and of the loss by step.

    Args:
        study: The study.
        groups: The runs of each cell that is compared.

    Returns:
        Title and figure by an id.
    """
    logged = {name for group in groups for run in group.runs for name in run.series}
    quantity = study.metric.partition("/")[2]
    panels = {}
    for name, axis in (("loss", "step"), (quantity, "epoch" if quantity != "loss" else "step")):
        metrics = [metric for metric in (f"train/{name}", f"val/{name}") if metric in logged]
        if metrics:
            panels[name] = Panel(metric_label(name), metrics, axis=axis)  # type: ignore[arg-type]
    found = {}
    for name, panel in sorted(panels.items(), key=lambda item: item[0] == "loss"):
        figure = panel_figure(panel, groups)
        if study.threshold is not None and name == quantity:
            figure["layout"]["shapes"] = [
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": study.threshold,
                    "y1": study.threshold,
                    "line": {"color": "var(--muted)", "width": 1, "dash": "dash"},
                }
            ]
        found[f"curve-{name}"] = (panel.title, figure)
    return found


def _seeds(study: Study, result: Result, places: Sequence[float], groups: Mapping[str, int], *, across: bool) -> Figure:
    """The figures of a cell as dots: on the row of an arm (``across``) or above a value of the factor."""
    told = []
    for seeds, value in result.values.items():
        who = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"
        text = number_text(study, value.value) if value.reached else f"> {value.value:g}"
        told.append(html.escape(f"{result.label}, {who}: {text}"))
    return {
        "type": "scatter",
        "mode": "markers",
        "x": result.numbers if across else list(places),
        "y": list(places) if across else result.numbers,
        "text": told,
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
        "marker": {
            "color": _colour(result, groups),
            "size": 8,
            "opacity": 0.55,
            "symbol": ["circle" if value.reached else "triangle-right" for value in result.values.values()],
        },
    }


def _arm_line(study: Study, label: str, found: Sequence[tuple[float, Result]], colour: str) -> Figure:
    """A line through the means of an arm; ``found`` holds its results with their places on the axis of the factor."""
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": html.escape(label),
        "x": [place for place, _ in found],
        "y": [result.mean for _, result in found],
        "error_y": {
            "array": [result.deviation or 0 for _, result in found],
            "color": colour,
            "thickness": 1.5,
            "width": 4,
        },
        "line": {"color": colour, "width": 2.2},
        "marker": {"size": 8},
        "text": [html.escape(f"{result.label}: {result_text(study, result)}") for _, result in found],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _mean(study: Study, result: Result, row: int, groups: Mapping[str, int]) -> Figure:
    colour = _colour(result, groups)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [result.mean],
        "y": [row],
        "error_x": {"array": [result.deviation or 0], "color": colour, "thickness": 2, "width": 7},
        "marker": {"color": colour, "size": 15, "symbol": "line-ns", "line": {"color": colour, "width": 3}},
        "text": [html.escape(f"{result.label}: {result_text(study, result)}")],
        "hovertemplate": "%{text}<extra></extra>",
        "showlegend": False,
    }


def _layout(study: Study, axis: str) -> Figure:
    share = is_fraction(study.metric) and study.statistic != "epochs_to_reach"
    title = html.escape(figure_label(study))
    return {axis: {"title": {"text": title}, "tickformat": "~%" if share else "~g"}}


def _colour(result: Result, groups: Mapping[str, int]) -> str:
    return f"var(--series-{groups[result.label] % COLOURS})"


def _spread(count: int) -> list[float]:
    """Places from -1 to 1 whose order does not follow the order of the seeds."""
    if count == 1:
        return [0.0]
    return [2 * math.modf(place * 0.618034)[0] - 1 for place in range(count)]
