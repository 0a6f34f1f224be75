"""Read what a run left in its directory, at any moment of its life."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from convatlas.errors import UserError


@dataclass(frozen=True)
class Series:
    """One metric over the optimizer steps of a run, ascending, one value a step.

    Attributes:
        steps: Optimizer steps, (N,) int64.
        epochs: Epoch of each step, (N,) int64.
        values: Values as logged, (N,) float64; NaN and infinities are kept.
    """

    steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class RunRecord:
    """The record of one run. Whatever the run has not written yet is empty.

    Attributes:
        path: The run directory.
        config: The resolved configuration.
        provenance: What produced the run.
        summary: State, durations and last metrics.
        series: Every logged metric, by name (``train/loss``).
        torn: Whether the last line of ``metrics.jsonl`` is incomplete and was left out.
        evaluations: The files of ``evaluation/``, by name of the split.
    """

    path: Path
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    summary: Mapping[str, Any]
    series: Mapping[str, Series]
    torn: bool
    evaluations: Mapping[str, Mapping[str, Any]]

    @property
    def run_id(self) -> str:
        """The identity of the run, which is also the name of its directory."""
        return str(self.summary.get("run_id", self.path.resolve().name))

    @property
    def name(self) -> str:
        """The readable name."""
        return str(self.summary.get("name", self.run_id))

    @property
    def state(self) -> str:
        """``running``, ``finished`` or ``failed``; ``started`` before the first summary is written."""
        return str(self.summary.get("state", "started"))


def read_run(path: Path) -> RunRecord:
    """Read a run directory.

    Args:
        path: A directory such as ``runs/<run_id>``; of its files only ``config.yaml`` must be there.

    Returns:
        The record.

    Raises:
        UserError: The path is not a run directory, or one of its files is damaged.
    """
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path}: expected a run directory, but it has no config.yaml")
    series, torn = read_metrics(path / "metrics.jsonl")
    return RunRecord(
        path=path,
        config=_read_config(path / "config.yaml"),
        provenance=_read_json(path / "provenance.json"),
        summary=_read_json(path / "summary.json"),
        series=series,
        torn=torn,
        evaluations={file.stem: _read_json(file) for file in sorted((path / "evaluation").glob("*.json"))},
    )


def read_metrics(path: Path) -> tuple[dict[str, Series], bool]:
    """Read ``metrics.jsonl``.

    A resumed run logs the steps after its checkpoint again: of two values for one step the later counts.

    Args:
        path: The file; it need not exist.

    Returns:
        The series by metric name, and whether the last line was incomplete and is left out.

    Raises:
        UserError: A line other than the last is not a JSON object with a ``step``.
    """
    points: dict[str, dict[int, tuple[int, float]]] = {}
    torn = False
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            step, epoch = row["step"], row.get("epoch") or 0
            metrics = {name: float(value) for name, value in row.items() if "/" in name}
        except (ValueError, TypeError, LookupError) as error:
            if number == len(lines):
                torn = True
                break
            raise UserError(f"{path}:{number}: expected a JSON object with a step and numbers") from error
        for name, value in metrics.items():
            points.setdefault(name, {})[step] = (epoch, value)
    return {name: _series(by_step) for name, by_step in points.items()}, torn


def _series(by_step: Mapping[int, tuple[int, float]]) -> Series:
    steps = sorted(by_step)
    return Series(
        steps=np.array(steps, dtype=np.int64),
        epochs=np.array([by_step[step][0] for step in steps], dtype=np.int64),
        values=np.array([by_step[step][1] for step in steps], dtype=np.float64),
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected YAML") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a mapping of configuration keys")
    return config


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: expected JSON") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value


def number(value: object) -> float | None:
    """A finite number from JSON; ``None`` for what is absent, no number, or one of our ``"NaN"`` texts."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None
