"""Read the metrics of a run in bounded memory, and update them with the lines that are appended to its record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.record.lines import Line, LineReader
from convatlas.record.series import Series, bounded, join, series_of

Columns = tuple[NDArray[Any], ...]
"""The points of one metric: position in the block, step, epoch, time and value, (N,) each."""


class MetricsFile:
    """Reads the metrics of a run, also while it trains.

    Args:
        path: The file; it need not exist.

    Attributes:
        series: Every logged metric, by name (``train/loss``), each of at most ``series.MAX_BUCKETS`` buckets.
    """

    def __init__(self, path: Path) -> None:
        self.series: dict[str, Series] = {}
        self._reader = LineReader(path)

    @property
    def torn(self) -> bool:
        """Whether the last line is incomplete and was left out."""
        return self._reader.torn

    def read(self) -> None:
        """Read the lines since the last call, or all lines if the file was replaced.

        Raises:
            UnreadableError: A line is damaged, as in ``LineReader.blocks``.
        """
        if self._reader.was_replaced():
            self.series = {}
        for lines in self._reader.blocks():
            self._add(lines)

    def _add(self, lines: Sequence[Line]) -> None:
        """Sort the values by metric. Most lines have the same keys, so lines are grouped by their keys."""
        kinds: dict[tuple[str, ...], list[int]] = {}
        for position, line in enumerate(lines):
            kinds.setdefault(tuple(line), []).append(position)
        found: dict[str, list[Columns]] = {}
        for names, positions in kinds.items():
            chosen = [lines[position] for position in positions]
            shared = (
                np.array(positions, dtype=np.int64),
                np.array([line["step"] for line in chosen], dtype=np.int64),
                np.array([line.get("epoch") or 0 for line in chosen], dtype=np.int64),
                np.array([line.get("time") or np.nan for line in chosen], dtype=np.float64),
            )
            for name in names:
                if "/" in name:
                    values = np.array([line[name] for line in chosen], dtype=np.float64)
                    found.setdefault(name, []).append((*shared, values))
        for name, parts in found.items():
            place, *columns = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(place)
            series = series_of(*(column[order] for column in columns))
            self.series[name] = bounded(join(self.series[name], series) if name in self.series else series)
