"""Read and write tar shards in the layout of WebDataset. They have an offset index and are read through a memory map.

A sample consists of two members, ``00000000.jpg`` and ``00000000.cls`` (the class as digits). The index of ``x.tar`` is
``x.index.npy`` in the same folder, an array of (offset, size, label). It saves scanning the tar file at the start.
"""

import hashlib
import io
import os
import tarfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from convatlas.data.digests import FileDigests, text_digest
from convatlas.data.images.decode import IMAGE_SUFFIXES, Background, Picture, open_picture
from convatlas.data.sources.images import Labels
from convatlas.data.sources.scan import is_hidden
from convatlas.errors import UserError

ENTRY = np.dtype([("offset", "<i8"), ("size", "<i4"), ("label", "<i4")])
HEADER_BYTES = 512
NAME_BYTES = 100


class ShardSample(NamedTuple):
    """An image to write to a shard.

    Attributes:
        name: The name of the member, such as ``00000000.jpg``.
        encoded: The bytes of the member.
        label: The class.
    """

    name: str
    encoded: bytes
    label: int


def index_path(shard: Path) -> Path:
    """Return the path of the offset index of a shard."""
    return shard.with_suffix(".index.npy")


def write_shard(path: Path, samples: Iterable[ShardSample]) -> None:
    """Write a shard and its index.

    The bytes depend only on the samples. If the process is killed, neither file is left incomplete.

    Args:
        path: The shard, ``….tar``. Its index is written to the same folder.
        samples: The images, in order.
    """
    entries = []

    def write(file: IO[bytes]) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, encoded, label in samples:
                entries.append((tar.offset + HEADER_BYTES, len(encoded), label))
                _add(tar, name, encoded)
                _add(tar, f"{name.partition('.')[0]}.cls", str(label).encode())

    _replace(path, write)
    _write_index(path, entries)


def index_shard(path: Path) -> int:
    """Write the index of a shard that other software made.

    Args:
        path: The shard. Each of its samples has one image and one ``.cls`` member with the class as digits.

    Returns:
        The number of samples.

    Raises:
        UserError: The file is not a tar file, or a sample does not have exactly one image and one class of at least 0.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if any(map(is_hidden, map(os.fsencode, PurePosixPath(member.name).parts))):
                    continue
                folder, _, base = member.name.rpartition("/")
                key, _, suffix = base.partition(".")
                sample = f"{folder}/{key}"
                if f".{suffix}".lower().endswith(IMAGE_SUFFIXES):
                    if sample in images:
                        raise UserError(f"{path}: {member.name} is a second image of its sample; expected one")
                    images[sample] = (member.offset_data, member.size)
                elif suffix == "cls" and (content := tar.extractfile(member)):
                    if sample in labels:
                        raise UserError(f"{path}: {member.name} is a second class of its sample; expected one")
                    if not (label := content.read().strip()).isdigit():
                        raise UserError(f"{path}: {member.name} is {label!r}; expected the class as digits, from 0")
                    labels[sample] = int(label)
    except (tarfile.TarError, ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be indexed ({error}); expected an uncompressed tar") from error
    if not images or images.keys() != labels.keys():
        raise UserError(
            f"{path}: {len(images)} images and {len(labels)} classes; expected an image and a .cls with its class as "
            "digits for each sample"
        )
    _write_index(path, [(*place, labels[sample]) for sample, place in images.items()])
    return len(images)


class ShardSource:
    """The samples of tar shards, one shard after the other.

    Args:
        shards: The tar files. The index of each is in the same folder.
        in_channels: 1 for greyscale, 3 for RGB.

    Raises:
        UserError: A shard or its index is missing or damaged.
    """

    background: Background = None

    def __init__(self, shards: Sequence[Path], in_channels: int) -> None:
        self.shards = list(shards)
        self.in_channels = in_channels
        indices = [_read_index(shard) for shard in self.shards]
        self._entries = np.concatenate(indices)
        self._ends = np.cumsum([len(index) for index in indices]).tolist()
        self.labels: Labels = self._entries["label"].astype(np.int64)
        self._maps = [_map(shard, index) for shard, index in zip(self.shards, indices, strict=True)]

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> Picture:
        """Read one image."""
        return open_picture(self.encoded(index), self.in_channels, self.path(index), self.background)

    def encoded(self, index: int) -> bytes:
        """Return the bytes of the image file of a sample."""
        offset, size, _ = self._entries[index].item()
        return self._maps[self._shard_of(index)][offset : offset + size].tobytes()

    def path(self, index: int) -> str:
        """Return the name of a sample: its shard, and the name of its member from the header of the member."""
        shard = self._shard_of(index)
        start = self._entries["offset"][index] - HEADER_BYTES
        member = self._maps[shard][start : start + NAME_BYTES].tobytes().partition(b"\0")[0]
        return f"{self.shards[shard].name}/{os.fsdecode(member)}"

    @property
    def index_digest(self) -> bytes:
        """SHA-256 of the offsets, sizes and classes of all samples."""
        return hashlib.sha256(self._entries.data).digest()

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute the digests of the index, and of the names and the sizes or contents of the shards."""
        return {
            "names": text_digest(shard.name for shard in self.shards),
            "index": self.index_digest.hex(),
            **files.images(len(self.shards), lambda number: str(self.shards[number]), "shard"),
        }

    def _shard_of(self, index: int) -> int:
        return bisect_right(self._ends, index)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner, group and time are zero
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _write_index(shard: Path, entries: Sequence[tuple[int, int, int]]) -> None:
    _replace(index_path(shard), lambda file: np.save(file, np.array(entries, dtype=ENTRY)))


def _replace(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read_index(shard: Path) -> NDArray[np.void]:
    path = index_path(shard)
    try:
        with path.open("rb") as file:
            index: NDArray[np.void] = np.lib.format.read_array(file)  # np.load would open archives, too
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: missing; expected the offset index of {shard.name} (`convatlas data index root={shard.parent}` "
            "writes it)"
        ) from error
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: not an offset index ({error})") from error
    if index.dtype != ENTRY or index.ndim != 1 or any((index[name] < 0).any() for name in ENTRY.names or ()):
        raise UserError(f"{path}: not an offset index; expected an array of (offset, size, label), none below 0")
    return index


def _map(shard: Path, index: NDArray[np.void]) -> NDArray[np.uint8]:
    """Map the bytes of a shard. There may be thousands, and torch's memory maps, unlike Python's, keep no file open."""
    if not shard.is_file():
        raise UserError(f"{shard}: missing; expected the shard that {index_path(shard).name} describes")
    size = shard.stat().st_size
    needed = int((index["offset"] + index["size"]).max(initial=0))
    if size < needed:
        raise UserError(f"{shard}: truncated: {size:,} bytes, expected at least {needed:,}, as its index says")
    mapped: NDArray[np.uint8] = torch.from_file(str(shard), shared=False, size=size, dtype=torch.uint8).numpy()
    return mapped
