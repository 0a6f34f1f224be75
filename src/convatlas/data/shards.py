"""Plain tar shards in WebDataset layout with an offset index, read through a memory map.

A sample is two members, ``00000.png`` and ``00000.cls`` (the class as digits). ``tar tf`` lists them. Beside
``x.tar`` lies ``x.index.npy``, an array of (offset, size, label), so that nothing is scanned at the start.
"""

import io
import mmap
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.decode import decode
from convatlas.data.sources import Labels
from convatlas.errors import UserError

ENTRY = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4")])
HEADER_BYTES = 512
NAME_BYTES = 100


def index_path(shard: Path) -> Path:
    """The offset index of a shard."""
    return shard.with_suffix(".index.npy")


def write_shard(path: Path, samples: Iterable[tuple[bytes, int]], suffix: str = "png") -> int:
    """Write encoded images and their classes; the same samples give the same bytes.

    Args:
        path: The shard, ``….tar``; its index is written beside it.
        samples: Encoded image and class of each sample.
        suffix: What the images' names end in.

    Returns:
        The number of samples.
    """
    entries = []
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (encoded, label) in enumerate(samples):
            offset = tar.offset + HEADER_BYTES
            _add(tar, f"{number:05d}.{suffix}", encoded)
            _add(tar, f"{number:05d}.cls", str(label).encode())
            entries.append((offset, len(encoded), label))
    np.save(index_path(path), np.array(entries, dtype=ENTRY))
    return len(entries)


class ShardSource:
    """The samples of tar shards, one shard after the other.

    Args:
        shards: The tar files; the index of each lies beside it.
        in_channels: 1 for greyscale, 3 for RGB.

    Raises:
        UserError: A shard or its index is missing.
    """

    def __init__(self, shards: Sequence[Path], in_channels: int) -> None:
        self.shards = list(shards)
        self.in_channels = in_channels
        for shard in self.shards:
            for path in (shard, index_path(shard)):
                if not path.is_file():
                    raise UserError(f"{path}: missing; expected a shard and its index")
        indices: list[NDArray[np.void]] = [np.load(index_path(shard)) for shard in self.shards]
        entries = np.concatenate(indices)
        self.offsets = entries["offset"].astype(np.int64)
        self.sizes = entries["size"].astype(np.int64)
        self.shard_of = np.repeat(np.arange(len(indices)), [len(index) for index in indices])
        self.labels: Labels = entries["label"].astype(np.int64)
        self._maps = [_map(shard) for shard in self.shards]

    def load(self, index: int) -> Tensor:
        """Decode one image, (C, H, W) uint8."""
        return decode(self.encoded(index), self.in_channels, self.path(index))

    def encoded(self, index: int) -> bytes:
        """The member's bytes."""
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        return self._maps[int(self.shard_of[index])][offset : offset + size]

    def path(self, index: int) -> str:
        """The shard and the member's name, read from its header."""
        shard = self.shard_of[index]
        start = self.offsets[index] - HEADER_BYTES
        member = self._maps[shard][start : start + NAME_BYTES].rstrip(b"\0").decode()
        return f"{self.shards[shard].name}/{member}"

    def fingerprint(self) -> bytes:
        """The index: sizes, places and classes of all samples."""
        return b"".join(column.tobytes() for column in (self.offsets, self.sizes, self.labels))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
