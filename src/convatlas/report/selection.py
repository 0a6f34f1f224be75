"""Which runs a report is about: directories, patterns, or all of a folder, and a filter over them."""

import glob
from collections.abc import Sequence
from pathlib import Path

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.reader import RunRecord
from convatlas.report.page import filter_text


def named_runs(patterns: Sequence[str]) -> list[Path]:
    """A directory stands for itself, a glob for the run directories among its matches.

    Raises:
        UserError: Nothing is there.
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
    """The run directories in a folder; those that are being made have neither configuration nor summary yet.

    Raises:
        UserError: There is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"root={root}: no such directory; expected the folder that holds the runs")
    return [path for path in sorted(root.iterdir()) if is_run(path)]


def is_run(path: Path) -> bool:
    """Whether a path is the directory of a run that has begun; a run that has lost one of the files is one, too."""
    run = RunDirectory(path)
    return run.config_file.is_file() or run.summary_file.is_file()


def selected(records: Sequence[RunRecord], words: str | None) -> list[RunRecord]:
    """The runs in whose ``filter_text`` all words occur, as in the page's own filter."""
    wanted = (words or "").lower().split()
    return [run for run in records if all(word in filter_text(run) for word in wanted)]


def by_start(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The first started comes first, so that a new run changes neither place nor colour of the others."""
    return sorted(records, key=lambda run: str(run.summary.get("started", "~")))
