"""Count the pixels of each class in a set of masks, with a cache that is valid until a file changes."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from convatlas.data.images.decode import ImageError
from convatlas.data.sources.scan import SETTLED_SECONDS, parse_entry, read_entry, user_cache, write_entry
from convatlas.utils.console import slow_progress

VALUES = 256
VERSION = "2"
"""Version of the cache entries."""

Pixels = NDArray[np.int64]
"""Number of pixels of each value from 0 to 255, (256,)."""
COUNTS = TypeAdapter(
    Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(min_length=VALUES, max_length=VALUES)]
)
"""Validates the counts of a cache entry."""


def count_pixels(
    paths: Sequence[Path], read: Callable[[int], NDArray[np.uint8]], meaning: str, threads: int, *, skip: bool
) -> Pixels:
    """Add up the pixels of masks by their classes.

    The counts are stored in the user's cache folder; the paths, sizes and times of the files are their key.

    Args:
        paths: The masks.
        read: Called by several threads with a position in ``paths``; returns the classes of a mask's pixels.
        meaning: Describes the settings, other than the files, on which the classes depend.
        threads: Number of masks that are read at once.
        skip: Whether to leave out masks that cannot be read.

    Raises:
        ImageError: A mask cannot be read, and ``skip`` is false.
    """
    cache = user_cache()
    stamps = _stamps(paths)
    entry = None
    if cache is not None and stamps is not None:
        key = hashlib.sha256(json.dumps([VERSION, meaning, *map(str, map(Path.absolute, paths)), stamps]).encode())
        entry = cache / "mask_counts" / key.hexdigest()
        if (known := _recall(entry)) is not None:
            return known

    def count(position: int) -> Pixels | None:
        try:
            return np.bincount(read(position).ravel(), minlength=VALUES)
        except ImageError:
            if not skip:
                raise
            return None

    total = np.zeros(VALUES, np.int64)
    with slow_progress("pixels of masks", len(paths), "files") as advance, ThreadPoolExecutor(threads) as pool:
        try:
            for pixels in pool.map(count, range(len(paths))):
                if pixels is None:
                    entry = None  # counts without some masks are not cached
                else:
                    total += pixels
                advance(1)
        finally:
            pool.shutdown(cancel_futures=True)
    if entry is not None:
        write_entry(entry, json.dumps(total.tolist()).encode())
    return total


def _stamps(paths: Sequence[Path]) -> list[list[int]] | None:
    """Read size and times of each file; None if a file is missing or so new that its times may miss a change."""
    latest = (time.time() - SETTLED_SECONDS) * 1e9
    stamps = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return None
        stamps.append([status.st_size, status.st_mtime_ns, status.st_ctime_ns])
        if max(status.st_mtime_ns, status.st_ctime_ns) > latest:
            return None
    return stamps


def _recall(entry: Path) -> Pixels | None:
    """Read the counts of an entry; None if it is missing or damaged."""
    try:
        return np.array(parse_entry(read_entry(entry) or b"", COUNTS), np.int64)
    except ValueError:
        return None
