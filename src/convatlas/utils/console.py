"""How results look on a terminal."""

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from convatlas.utils.distributed import is_rank_zero
from convatlas.utils.files import printable

UNBOUNDED = 1000
"""Columns of what is no terminal."""
QUIET_SECONDS = 5
"""How long ``slow_progress`` waits before it shows anything."""
PROGRESS_SECONDS = 10
"""Between two lines of progress in what is no terminal."""


def print_fields(fields: Mapping[str, str]) -> None:
    """Print labelled lines, unwrapped, so that paths can be copied; control characters are printed as escapes."""
    width = max(map(len, fields))
    for label, text in fields.items():
        sys.stdout.write(f"{printable(label):<{width}}  {printable(str(text))}\n")
    sys.stdout.flush()


def warn(message: str) -> None:
    """Print a one-line warning on standard error; control characters are printed as escapes."""
    sys.stderr.write(f"convatlas: warning: {printable(message)}\n")


def warn_left_out(damages: Iterable[str]) -> None:
    """Name on standard error what a list leaves out because it cannot be read."""
    for damage in damages:
        warn(f"{damage}; the run is left out")


def print_result(headline: str, metrics: Iterable[str]) -> None:
    """Print a headline and below it metrics with their values, control characters as escapes."""
    sys.stdout.write(f"\n{printable(headline)}\n")
    sys.stdout.write(printable("  ".join(metrics)) + "\n\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Collection[str] = ()) -> None:
    """Print a table that fits the terminal; in a file or a pipe it is as wide as it needs.

    Args:
        columns: Their headings.
        rows: A cell for each column; None is empty, and control characters are printed as escapes.
        numbers: Headings of the columns that end flush right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(printable(column)), justify="right" if column in numbers else "left")
    for row in rows:  # texts without markup: names may hold brackets
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table)


@contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show on standard error how far a count has come: a bar on a terminal, plain lines elsewhere.

    Args:
        label: What is counted.
        total: Where the count ends.
        unit: What one is called, in the plural.

    Yields:
        A function that is told how many were done since it was called last.
    """
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done = 0
    started = printed = time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        now = time.monotonic()
        if done == total or now - printed >= PROGRESS_SECONDS:
            printed = now
            sys.stderr.write(f"{label}  {done:,}/{total:,}  {done / max(1e-9, now - started):,.0f} {unit}/s\n")
            sys.stderr.flush()

    yield advance


@contextmanager
def slow_progress(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show progress as ``progress`` does, but only on rank 0, and only of work that takes over ``QUIET_SECONDS``."""
    started = time.monotonic()
    done = 0
    shown: Callable[[int], None] | None = None
    with ExitStack() as stack:

        def advance(count: int) -> None:
            nonlocal done, shown
            done += count
            if shown is not None:
                shown(count)
            elif is_rank_zero() and time.monotonic() - started > QUIET_SECONDS:
                shown = stack.enter_context(progress(label, total, unit))
                shown(done)

        yield advance
