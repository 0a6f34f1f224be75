"""The tables of a report as Markdown, for a wiki, a pull request or a paper's notes."""

from collections.abc import Sequence

from convatlas.record.groups import Group
from convatlas.report.views.tables import Table, expectations_table, results_table, runs_table

ROWS = 200
"""Runs in the table; the rest is counted below it."""


def markdown(title: str, groups: Sequence[Group], damages: Sequence[str] = ()) -> str:
    """Write results by configuration, expectations and runs as GitHub's Markdown.

    Args:
        title: The heading.
        groups: The groups of the report.
        damages: What cannot be read.
    """
    parts = [
        f"# {escape(title)}",
        "## Results",
        "Mean ± standard deviation over the runs.",
        table_text(results_table(groups)),
    ]
    expected = expectations_table(groups)
    if expected.rows:
        parts += ["## Beside what was expected", table_text(expected)]
    parts += ["## Runs", table_text(runs_table(groups))]
    if damages:
        parts += ["## Not readable", "\n".join(f"- {escape(damage)}" for damage in damages)]
    return "\n\n".join(parts) + "\n"


def table_text(table: Table) -> str:
    """A table as GitHub's Markdown, its first ``ROWS`` rows."""
    lines = [
        _line([escape(column) for column in table.columns]),
        _line(["--:" if numeric else "---" for numeric in table.numeric]),
    ]
    for row in table.rows[:ROWS]:
        texts = [f"**{escape(cell.text)}**" if cell.best else escape(cell.text) for cell in row.cells]
        lines.append(_line(texts))
    if len(table.rows) > ROWS:
        lines.append(f"\nThe first {ROWS} of {len(table.rows)}.")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(text: str) -> str:
    """Text that is no markup, neither Markdown's nor HTML's, and stays in one cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|#~":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
