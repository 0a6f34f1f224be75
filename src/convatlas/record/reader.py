"""Read the record of a run from its directory, at any time during or after the run."""

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
    """The record of one run. Parts that the run has not written yet are empty.

    Attributes:
        path: The run directory.
        config: The resolved configuration.
        provenance: Code, environment and command that produced the run.
        summary: Durations and last metrics.
        state: ``running``, ``finished``, ``failed``, …; ``started`` before the first summary is written.
        series: Every logged metric, by name (``train/loss``).
        torn: Whether an incomplete last line of ``metrics.jsonl`` was left out.
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
        """The run id, which is also the name of the directory."""
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
        """Read the evaluations by file name, which consists of the split and the test protocol.

        Raises:
            UnreadableError: An evaluation is damaged.
        """
        return {file.stem: read_evaluation(file) for file in self.evaluation_files}


class RunReader:
    """Reads a run directory repeatedly: only files that changed, and only new lines of the metrics.

    Args:
        path: A directory such as ``runs/<run_id>``, which has at least ``config.yaml``.
        state_of: Returns the current state of a run from its directory. None takes the state on record, which stays
            ``running`` if the process was killed.
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
    """Read a run directory once, with the state on record.

    Raises:
        UnreadableError: The path is not a run directory, or one of its files is damaged.
    """
    return RunReader(path).read()


def _stamp(path: Path) -> tuple[int, int]:
    """Modification time in nanoseconds and size of a file; zeros if it cannot be found."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def number(value: object) -> float | None:
    """A number from a file as a float; None if it is no number, not finite or too large for a float."""
    return float(value) if isinstance(value, int | float) and abs(value) <= LARGEST else None
