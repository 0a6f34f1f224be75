"""Read ``metrics.jsonl`` in bounded memory, and again only what was appended since."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import UserError
from convatlas.report.series import Series, bounded, join, series_of

Columns = tuple[NDArray[Any], ...]
"""Position in the block, step, epoch, time and value of the points of one metric, (N,) each."""

BLOCK = 4 * 2**20
"""Bytes read at a time."""


class MetricsFile:
    """The record of a run's metrics, which grows while the run trains.

    Args:
        path: The file; it need not exist.

    Attributes:
        series: Every logged metric, by name (``train/loss``), each of at most ``series.MAX_BUCKETS`` buckets.
        torn: Whether the last line is incomplete, and left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self.series: dict[str, Series] = {}
        self.torn = False
        self._offset = 0
        self._lines = 0
        self._last_line = b""

    def read(self) -> None:
        """Read what was appended since the last call; all of it, if the file was cut back since.

        Raises:
            UserError: A line other than the last is not a JSON object with a ``step`` and numbers.
        """
        if not self.path.is_file():
            self._start()
            return
        with self.path.open("rb") as file:
            file.seek(self._offset - len(self._last_line))
            if file.read(len(self._last_line)) != self._last_line:  # a resumed run cut the record back
                self._start()
                file.seek(0)
            rest = b""
            while block := file.read(BLOCK):
                rest = self._take(rest + block)
            self.torn = bool(rest)

    def _take(self, block: bytes) -> bytes:
        """Add the complete lines of a block; returns what is left."""
        end = block.rfind(b"\n") + 1
        lines = block[:end].splitlines()
        if lines:
            self._add(self._parse(lines))
            self._offset += end
            self._lines += len(lines)
            self._last_line = lines[-1] + b"\n"
        return block[end:]

    def _parse(self, lines: Sequence[bytes]) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = json.loads(b"[" + b",".join(lines) + b"]")  # at once: twice as fast
            if len(rows) == len(lines) and all("step" in row for row in rows):
                return rows
        except (ValueError, TypeError):
            pass
        raise self._damage(lines)

    def _add(self, rows: list[dict[str, Any]]) -> None:
        """Sort the values by metric. Most rows have the same keys, so columns are gathered by sets of keys."""
        kinds: dict[tuple[str, ...], list[int]] = {}
        for position, row in enumerate(rows):
            kinds.setdefault(tuple(row), []).append(position)
        found: dict[str, list[Columns]] = {}
        for names, positions in kinds.items():
            chosen = [rows[position] for position in positions]
            try:
                shared = (
                    np.array(positions, dtype=np.int64),
                    np.array([row["step"] for row in chosen], dtype=np.int64),
                    np.array([row.get("epoch") or 0 for row in chosen], dtype=np.int64),
                    np.array([row.get("time") or np.nan for row in chosen], dtype=np.float64),
                )
                for name in names:
                    if "/" in name:
                        values = np.array([row[name] for row in chosen], dtype=np.float64)
                        found.setdefault(name, []).append((*shared, values))
            except (ValueError, TypeError) as error:
                raise self._damage([json.dumps(row).encode() for row in rows]) from error
        for name, parts in found.items():
            place, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(place)
            series = series_of(*(column[order] for column in columns))
            self.series[name] = bounded(join(self.series[name], series) if name in self.series else series)

    def _damage(self, lines: Sequence[bytes]) -> UserError:
        """The error that names the first line which is not as it should be."""
        for number, line in enumerate(lines, start=self._lines + 1):
            try:
                row = json.loads(line)
                [int(row["step"]), *(float(value) for name, value in row.items() if "/" in name)]
            except (ValueError, TypeError, LookupError, AttributeError):
                return UserError(f"{self.path}:{number}: expected a JSON object with a step and numbers")
        return UserError(f"{self.path}: expected one JSON object a line")
