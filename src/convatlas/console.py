"""How results look on a terminal."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


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


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table that fits the terminal."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)
