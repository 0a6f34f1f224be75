"""Select the runs of a report: by directory, pattern or folder, and by a filter."""

import glob
from collections.abc import Sequence
from pathlib import Path

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.reader import RunRecord
from convatlas.report.page import filter_text


def named_runs(patterns: Sequence[str]) -> list[Path]:
    """List the run directories that directories and glob patterns name.

    Raises:
        UserError: A pattern matches no run directory.
    """
    found: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_dir():
            found.append(Path(pattern))
            continue
        runs = [match for item in sorted(glob.glob(pattern)) if is_run(match := Path(item))]  # noqa: PTH207  absolute?
        if not runs:
            raise UserError(f"run={pattern}: no run directory there; expected a directory, a list, or a glob in quotes")
        found += runs
    if not found:
        raise UserError("run=[]: expected at least one run directory")
    return list(dict.fromkeys(found))


def runs_in(root: Path) -> list[Path]:
    """List the run directories of a folder. Runs that have not begun are left out.

    Raises:
        UserError: There is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"root={root}: no such directory; expected the folder that holds the runs")
    return [path for path in sorted(root.iterdir()) if is_run(path)]


def is_run(path: Path) -> bool:
    """Whether a path is the directory of a run that has begun, even if it has lost its configuration or summary."""
    run = RunDirectory(path)
    return run.config_file.is_file() or run.summary_file.is_file()


def selected(records: Sequence[RunRecord], words: str | None) -> list[RunRecord]:
    """Select the runs whose ``filter_text`` contains all words, like the filter of the page."""
    wanted = (words or "").lower().split()
    return [run for run in records if all(word in filter_text(run) for word in wanted)]


def by_start(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Sort runs by start, so that a new run does not change position and colour of the others."""
    return sorted(records, key=lambda run: str(run.summary.get("started", "~")))
