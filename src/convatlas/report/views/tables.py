"""The tables of a report as plain data, shown on the page and in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from convatlas.record.expectation import compare
from convatlas.record.groups import (
    Group,
    differing_keys,
    final_metrics,
    metric_names,
    short_key,
    value_text,
)
from convatlas.record.quantities import (
    duration_text,
    lower_is_better,
    metric_label,
    metric_text,
    short_count,
    spread_text,
)
from convatlas.record.reader import RunRecord, number

SETTINGS = 8
"""Most columns of hyper-parameters in the table of runs; the page says how many are hidden."""


@dataclass(frozen=True)
class TableCell:
    """A cell: its text, the value that it is sorted by, and whether it is the best of its column."""

    text: str
    value: float | None = None
    best: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row, and the position of its group or run, if it has one."""

    cells: list[TableCell]
    group: int | None = None
    run: int | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: The headings.
        numeric: Whether each column holds numbers.
        rows: The rows.
    """

    columns: list[str]
    numeric: list[bool]
    rows: list[TableRow] = field(default_factory=list)


def results_table(groups: Sequence[Group]) -> Table:
    """The mean and standard deviation of each final metric of the groups, the best group first."""
    names = metric_names([run for group in groups for run in group.runs])
    statistics = [[group.statistic(name) for name in names] for group in groups]
    means = [[None if found is None else found.mean for found in row] for row in statistics]
    winners = [_best(name, [row[column] for row in means]) for column, name in enumerate(names)]
    table = Table(["Configuration", "Runs", *map(metric_label, names)], [False, True, *(True for _ in names)])
    for position, (group, row) in enumerate(zip(groups, statistics, strict=True)):
        cells = [
            TableCell("")
            if found is None
            else TableCell(
                spread_text(name, found.mean, found.deviation), found.mean, len(groups) > 1 and found.mean == winner
            )
            for name, found, winner in zip(names, row, winners, strict=True)
        ]
        table.rows.append(
            TableRow([TableCell(group.label), TableCell(str(len(group.runs)), len(group.runs)), *cells], position)
        )
    if names:
        sign = 1 if lower_is_better(names[0]) else -1
        table.rows.sort(key=lambda row: (row.cells[2].value is None, sign * (row.cells[2].value or 0)))
    return table


def expectations_table(groups: Sequence[Group]) -> Table:
    """The expectations of the recipes and the results; empty if the recipes declare none."""
    columns = ["Configuration", "Metric", "Here", "Expected", "Difference", "Verdict", "Source of the expectation"]
    table = Table(columns, [False, False, True, True, True, False, False])
    positions = {group.key: position for position, group in enumerate(groups)}
    for row in compare(groups):
        metric, wanted, found = row.expectation.metric, row.expectation, row.found
        result = difference = "–"
        if found is not None:
            result = spread_text(metric, found.mean, found.deviation)
            above = found.mean - wanted.value
            difference = f"{'+' * (above >= 0)}{metric_text(metric, above)}"
        table.rows.append(
            TableRow(
                [
                    TableCell(row.group.label),
                    TableCell(metric_label(metric)),
                    TableCell(result),
                    TableCell(spread_text(metric, wanted.value, wanted.tolerance)),
                    TableCell(difference),
                    TableCell(row.verdict),
                    TableCell(wanted.source),
                ],
                positions[row.group.key],
            )
        )
    return table


def runs_table(groups: Sequence[Group]) -> Table:
    """Every run: state, final metrics, the hyper-parameters in which the groups differ, training time."""
    runs = [(position, run) for position, group in enumerate(groups) for run in group.runs]
    names = metric_names([run for _, run in runs])
    keys = differing_keys(groups)[:SETTINGS]
    winners = [_best(name, [final_metrics(run).get(name) for _, run in runs]) for name in names]
    columns = [
        "Run",
        "State",
        *map(metric_label, names),
        *map(short_key, keys),
        "Epochs",
        "Training time",
        "Parameters",
    ]
    table = Table(columns, [False, False, *(True for _ in columns[2:])])
    for index, (position, run) in enumerate(runs):
        metrics = final_metrics(run)
        seconds, count = training_seconds(run), parameters(run)
        epochs = run.summary.get("epochs")
        cells = [TableCell(run.run_id), TableCell(run.state)]
        for name, winner in zip(names, winners, strict=True):
            value = number(metrics.get(name))
            text = metric_text(name, metrics[name]) if name in metrics else ""
            cells.append(TableCell(text, value, value is not None and value == winner))
        settings = groups[position].settings
        cells += [TableCell(value_text(settings[key]), number(settings[key])) for key in keys]
        cells += [
            TableCell("" if epochs is None else f"{epochs:,}", number(epochs)),
            TableCell("" if seconds is None else duration_text(seconds), seconds),
            TableCell("" if count is None else short_count(count), count),
        ]
        table.rows.append(TableRow(cells, position, index))
    return table


def training_seconds(run: RunRecord) -> float | None:
    """The training time of a run in seconds; None if it is unknown."""
    seconds = number(run.summary.get("train_seconds"))
    if seconds is None and run.summary.get("started") and run.summary.get("ended"):
        began, ended = (datetime.fromisoformat(run.summary[key]) for key in ("started", "ended"))
        return (ended - began).total_seconds()
    return seconds


def parameters(run: RunRecord) -> int | None:
    """The number of parameters of the network of a run; None if it is unknown."""
    count = run.summary.get("parameters", run.provenance.get("parameters"))
    return count if isinstance(count, int) else None


def _best(name: str, values: Sequence[object]) -> float | None:
    finite = [value for item in values if (value := number(item)) is not None]
    return (min if lower_is_better(name) else max)(finite, default=None)
