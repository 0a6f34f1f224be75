"""Read ``metrics.jsonl``, also while a run appends to it."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from convatlas.errors import UnreadableError
from convatlas.utils.nesting import is_writable

Line = dict[str, Any]
"""One line: ``step``, ``epoch``, ``time``, and metrics by name. Non-finite numbers are strings such as ``"NaN"``."""

BLOCK = 4 * 2**20
"""Bytes read at a time."""
MAX_STEP = 2**53
"""Largest valid step. A larger integer counts as damage."""
MAX_DIGITS = 16
"""Maximum number of digits of an integer. A longer one counts as damage, because it may not fit a float."""
NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})


class LineReader:
    """Reads the complete lines of a ``metrics.jsonl``, and later the lines that were appended.

    An incomplete last line is left out: it is still being written, or the writer was killed. Any other deviation from
    the format is an error. The file is never changed.

    Args:
        path: The file; it need not exist yet.

    Attributes:
        torn: Whether the last read left out an incomplete last line.
        end: Offset of the end of the complete lines, in bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start()

    def _start(self) -> None:
        self.torn = False
        self.end = 0
        self._count = 0
        self._last = b""

    def was_replaced(self) -> bool:
        """Check whether the file no longer begins with the lines that were read; the next read then starts over."""
        replaced = self.end > 0
        if self.path.is_file():
            with self.path.open("rb") as file:
                file.seek(self.end - len(self._last))
                replaced = file.read(len(self._last)) != self._last
        if replaced:
            self._start()
        return replaced

    def new(self) -> list[Line]:
        """Read the lines since the last call, as ``blocks`` does."""
        return list(chain.from_iterable(self.blocks()))

    def blocks(self) -> Iterator[list[Line]]:
        """Read the lines since the last call, some megabytes at a time.

        Yields:
            Lines in the order of the file.

        Raises:
            UnreadableError: A line is damaged; the message names the file and the number of the line.
        """
        self.torn = False
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self.end)
            rest = b""
            while block := file.read(BLOCK):
                block = rest + block
                size = block.rfind(b"\n") + 1
                rest = block[size:]
                if size:
                    yield self._take(block[:size])
            self.torn = bool(rest)

    def _take(self, block: bytes) -> list[Line]:
        texts = block[:-1].split(b"\n")
        lines = _parse(texts)
        if lines is None:
            raise self._damage(texts)
        self.end += len(block)
        self._count += len(texts)
        self._last = texts[-1] + b"\n"
        return lines

    def _damage(self, texts: Sequence[bytes]) -> UnreadableError:
        number = next((number for number, text in enumerate(texts) if _parse([text]) is None), 0)
        return UnreadableError(
            f"{self.path}:{self._count + number + 1}: damaged line, expected a JSON object with a step and numbers"
        )


def read_metrics(path: Path) -> list[Line]:
    """Read all complete lines of a record, as ``LineReader.blocks`` does."""
    return LineReader(path).new()


def _parse(texts: Sequence[bytes]) -> list[Line] | None:
    """Parse lines; None if one is damaged. All lines are parsed at once, which is twice as fast."""
    try:
        text = f"[{b','.join(texts).decode()}]"
        lines = json.loads(text, parse_int=_integer)
        if len(lines) == len(texts) and _are_lines(lines) and ("\\u" not in text or is_writable(lines)):
            return list(lines)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    return None


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError("too large")
    return int(text)


def _are_lines(lines: Sequence[Line]) -> bool:
    """Whether all lines are objects with an integer step and numbers. Common types are checked without a loop."""
    if set(map(type, lines)) != {dict} or set(map(type, map(itemgetter("step"), lines))) != {int}:
        return False
    steps = list(map(itemgetter("step"), lines))
    if min(steps) < 0 or max(steps) > MAX_STEP:
        return False
    kinds = set(map(type, chain.from_iterable(map(dict.values, lines))))
    return kinds <= {int, float} or all(map(_is_line, lines))


def _is_line(line: Line) -> bool:
    return all(
        type(value) in (int, float)
        or (name == "epoch" and value is None)
        or (name not in ("epoch", "time") and isinstance(value, str) and value in NOT_FINITE)
        for name, value in line.items()
    )
