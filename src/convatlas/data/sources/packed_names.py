"""Millions of file names in little memory."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class Names:
    """Names one after the other in one block of bytes; each costs its own length and eight bytes.

    Args:
        groups: The names, group by group, so that they are a list of Python objects for one group at a time.

    Attributes:
        counts: Number of names in each group, (G,) int64.
    """

    def __init__(self, groups: Iterable[Sequence[bytes]]) -> None:
        self._block = bytearray()
        lengths = [np.empty(0, np.uint16)]  # file systems end a path at 4,096 bytes
        counts = []
        for group in groups:
            self._block += b"".join(group)
            lengths.append(np.fromiter(map(len, group), np.uint16, len(group)))
            counts.append(len(group))
        self.counts: NDArray[np.int64] = np.array(counts, np.int64)
        self._ends = np.cumsum(np.concatenate(lengths), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> bytes:
        start = self._ends[index - 1] if index else 0
        return bytes(self._block[start : self._ends[index]])

    def digest(self) -> bytes:
        """SHA-256 of the names in order."""
        digest = hashlib.sha256(self._block)
        digest.update(self._ends.data)
        return digest.digest()
