"""Print results, warnings and progress."""

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
"""Width of tables in files and pipes, in columns."""
QUIET_SECONDS = 5
"""Seconds that ``slow_progress`` waits before it shows anything."""
PROGRESS_SECONDS = 10
"""Seconds between two lines of progress in files and pipes."""


def print_fields(fields: Mapping[str, str]) -> None:
    """Print labelled lines without wrapping, so that paths can be copied; escape control characters."""
    width = max(map(len, fields))
    for label, text in fields.items():
        sys.stdout.write(f"{printable(label):<{width}}  {printable(str(text))}\n")
    sys.stdout.flush()


def warn(message: str) -> None:
    """Print a one-line warning on standard error; escape control characters."""
    sys.stderr.write(f"convatlas: warning: {printable(message)}\n")


def warn_left_out(damages: Iterable[str]) -> None:
    """Warn of runs that a list leaves out because they cannot be read."""
    for damage in damages:
        warn(f"{damage}; the run is left out")


def print_result(headline: str, metrics: Iterable[str]) -> None:
    """Print a headline and below it metrics with their values, control characters as escapes."""
    sys.stdout.write(f"\n{printable(headline)}\n")
    sys.stdout.write(printable("  ".join(metrics)) + "\n\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Collection[str] = ()) -> None:
    """Print a table that fits the terminal; in a file or a pipe it is as wide as necessary.

    Args:
        columns: The headings.
        rows: The cells of each row; None is an empty cell. Control characters are escaped.
        numbers: Headings of the columns that are aligned right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(printable(column)), justify="right" if column in numbers else "left")
    for row in rows:  # texts without markup: names may hold brackets
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else UNBOUNDED).print(table)


@contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show progress on standard error: a bar on a terminal, plain lines elsewhere.

    Args:
        label: Name of the work.
        total: Number of items.
        unit: Name of the items, in the plural.

    Yields:
        A function that takes the number of items done since its last call.
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
    """Show progress like ``progress``, but only on rank 0 and only after ``QUIET_SECONDS``."""
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
