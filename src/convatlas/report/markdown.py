"""Write the tables of a report as Markdown, for a wiki, a pull request or notes."""

from collections.abc import Sequence

from convatlas.record.groups import Group
from convatlas.report.views.tables import Table, expectations_table, results_table, runs_table

ROWS = 200
"""Most rows of a table; the number of all rows is given below it."""


def markdown(title: str, groups: Sequence[Group], damages: Sequence[str] = ()) -> str:
    """Write results, expectations and runs as GitHub Markdown.

    Args:
        title: The heading.
        groups: The groups of the report.
        damages: Errors of runs that cannot be read.
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
    """The first ``ROWS`` rows of a table as GitHub Markdown."""
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
    """Escape Markdown and HTML in a text and put it on one line, so that it stays in its cell."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\`*_[]|#~":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
