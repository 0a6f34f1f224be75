"""A report that is updated while the runs of a folder train."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convatlas.errors import UserError
from convatlas.record.reader import RunReader, RunRecord, StateOf
from convatlas.report.figures.panels import Dashboard
from convatlas.report.page import Report, build_report
from convatlas.report.selection import by_start, runs_in, selected
from convatlas.utils.files import dumps


@dataclass(frozen=True)
class Snapshot:
    """A report with its figures and runs as JSON, and with a digest of each part, by which changes are detected."""

    report: Report
    figures: dict[str, str]
    runs: str
    state: dict[str, Any]


class LiveReport:
    """The report of a folder of runs, rebuilt only after a change. It is thread-safe.

    Args:
        root: The folder that holds the runs.
        words: The filter, as in ``selection.selected``.
        dashboard: The panels of curves.
        state_of: Returns the current state of a run, as in ``RunReader``.
    """

    def __init__(self, root: Path, words: str | None, dashboard: Dashboard, state_of: StateOf | None = None) -> None:
        self.root = root
        self._words = words
        self._dashboard = dashboard
        self._state_of = state_of
        self._readers: dict[Path, RunReader] = {}
        self._shown: tuple[list[RunRecord], list[str]] | None = None
        self._lock = threading.Lock()
        self._snapshot: Snapshot

    def snapshot(self) -> Snapshot:
        """Return the report of the current runs. A damaged run is left out and named in the report."""
        with self._lock:
            records, damages = self._read()
            if self._shown is None or not self._is_shown(records, damages):
                self._snapshot = _snapshot(build_report(records, self._dashboard, damages))
                self._shown = records, damages
            return self._snapshot

    def _read(self) -> tuple[list[RunRecord], list[str]]:
        records, damages = [], []
        try:
            paths = runs_in(self.root)
        except UserError as error:  # the folder was removed
            return [], [str(error)]
        self._readers = {path: self._readers.get(path) or RunReader(path, self._state_of) for path in paths}
        for reader in self._readers.values():
            try:
                records.append(reader.read())
            except (UserError, OSError) as error:
                damages.append(str(error))
        return by_start(selected(records, self._words)), damages

    def _is_shown(self, records: list[RunRecord], damages: list[str]) -> bool:
        shown, named = self._shown or ([], [])
        return list(map(id, records)) == list(map(id, shown)) and damages == named


def _snapshot(report: Report) -> Snapshot:
    figures = {name: dumps(figure) for name, figure in report.figures.items()}
    runs = dumps(report.runs)
    state = {
        "title": report.title,
        "sections": {name: _digest(section) for name, section in report.sections.items()},
        "figures": {name: _digest(figure) for name, figure in figures.items()},
        "runs": _digest(runs),
    }
    return Snapshot(report, figures, runs, state)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
