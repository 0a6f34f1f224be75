"""How results look on a terminal."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

UNBOUNDED = 1000
"""Columns of what is no terminal."""


def print_fields(fields: Mapping[str, str]) -> None:
    """Print labelled lines, unwrapped, so that paths can be copied."""
    width = max(map(len, fields))
    for label, text in fields.items():
        sys.stdout.write(f"{label:<{width}}  {text}\n")
    sys.stdout.flush()


def print_result(headline: str, metrics: Mapping[str, Any]) -> None:
    """Print a headline and the metrics of an evaluation, accuracies in per cent."""
    sys.stdout.write(f"\n{headline}\n")
    shown = [f"{name} {metric_text(name, value)}" for name, value in metrics.items()]
    sys.stdout.write("  ".join(shown) + "\n\n")
    sys.stdout.flush()


def metric_text(name: str, value: float | str | None) -> str:
    """A metric for a person: losses as numbers, accuracies in per cent; what is not a finite number as it is."""
    if not isinstance(value, float | int):
        return str(value)
    return f"{value:.4f}" if name.endswith("loss") else f"{100 * value:.2f} %"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Collection[str] = ()) -> None:
    """Print a table that fits the terminal; in a file or a pipe it is as wide as it needs.

    Args:
        columns: Their headings.
        rows: A cell for each column; None is empty.
        numbers: Headings of the columns that end flush right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table)
