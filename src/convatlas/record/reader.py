"""Read what a run left in its directory, at any moment of its life."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from convatlas.record.directory import RunDirectory
from convatlas.record.files import read_evaluation
from convatlas.record.metrics_file import MetricsFile
from convatlas.record.series import Series

StateOf = Callable[[Path], str]
LARGEST = sys.float_info.max


@dataclass(frozen=True)
class RunRecord:
    """The record of one run. Whatever the run has not written yet is empty.

    Attributes:
        path: The run directory.
        config: The resolved configuration.
        provenance: What produced the run.
        summary: Durations and last metrics.
        state: ``running``, ``finished``, ``failed``, …; ``started`` before the first summary is written.
        series: Every logged metric, by name (``train/loss``).
        torn: Whether the last line of ``metrics.jsonl`` is incomplete and was left out.
        evaluation_files: The files of ``evaluation/``, which may be large: ``evaluations`` reads them.
    """

    path: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    summary: Mapping[str, Any]
    state: str
    series: Mapping[str, Series]
    torn: bool
    evaluation_files: tuple[Path, ...]

    @property
    def run_id(self) -> str:
        """The identity of the run, which is also the name of its directory."""
        return str(self.summary.get("run_id", self.path.resolve().name))

    @property
    def name(self) -> str:
        """The readable name."""
        return str(self.summary.get("name", self.run_id))

    @property
    def results(self) -> dict[str, Any]:
        """The metrics of the reported split, losses last."""
        metrics = self.summary.get("test") or {}
        return {name: metrics[name] for name in sorted(metrics, key=lambda name: (name.endswith("loss"), name))}

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """Read the evaluations, by name of the file, which is that of the split and of the test protocol.

        Raises:
            UnreadableError: One is damaged.
        """
        return {file.stem: read_evaluation(file) for file in self.evaluation_files}


class RunReader:
    """Reads a run directory, and again only if a file of it changed, and of its metrics only what is new.

    Args:
        path: A directory such as ``runs/<run_id>``; of its files only ``config.yaml`` must be there.
        state_of: Tells the present state of a run from its directory; None: what it wrote down, and a run whose process
            is gone still calls itself running.
    """

    def __init__(self, path: Path, state_of: StateOf | None = None) -> None:
        self.path = path
        self._state_of = state_of
        self._directory = RunDirectory(path)
        self._metrics = MetricsFile(self._directory.metrics)
        self._stamps: dict[Path, tuple[int, int]] = {}
        self._record: RunRecord | None = None

    def read(self) -> RunRecord:
        """Read the record; the same object as before if nothing changed.

        Raises:
            UnreadableError: The path is not a run directory, or one of its files is damaged.
        """
        run = self._directory
        files = [run.config_file, run.provenance_file, run.summary_file, run.metrics]
        evaluations = sorted(run.evaluation.glob("*.json"))
        stamps = {file: _stamp(file) for file in [*files, *evaluations]}
        if self._record is None or stamps != self._stamps:
            self._metrics.read()
            self._record = RunRecord(
                path=self.path,
                config=run.config,
                provenance=run.provenance,
                summary=run.summary,
                state="started",
                series=dict(self._metrics.series),
                torn=self._metrics.torn,
                evaluation_files=tuple(evaluations),
            )
            self._stamps = stamps
        recorded = str(self._record.summary.get("state", "started"))
        state = recorded if self._state_of is None else self._state_of(self.path)
        if state != self._record.state:
            self._record = replace(self._record, state=state)
        return self._record


def read_run(path: Path) -> RunRecord:
    """Read a run directory once, with the state that it wrote down.

    Raises:
        UnreadableError: The path is not a run directory, or one of its files is damaged.
    """
    return RunReader(path).read()


def _stamp(path: Path) -> tuple[int, int]:
    """The time of change in nanoseconds and the size of a file; zeros where it is absent or a link to itself."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def number(value: object) -> float | None:
    """A number from a file as a float; ``None`` for what is absent, none, not finite, or too large for a float."""
    return float(value) if isinstance(value, int | float) and abs(value) <= LARGEST else None
