"""Which images a folder holds, remembered from one start to the next.

Listing a million files takes minutes on a network file system. So what a class folder holds is written down as soon as
it is read, and believed for as long as no directory in it has changed; a start that was killed goes on where it was.
"""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path

from convatlas.data.decode import IMAGE_SUFFIXES
from convatlas.errors import UserError

SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
VERSION = b"1"
"""Of what the cache holds."""
SETTLED_SECONDS = 2
"""A directory that changed this recently may change again within one tick of its clock: it is not remembered."""
Stamps = dict[str, list[int]]
"""Times of modification and of change, in ns, of each directory in a class folder, by its path within it."""


class ImageScan:
    """Lists the images of class folders.

    Args:
        cache: Where the lists are kept; None keeps none, ``user`` is ``convatlas`` in ``XDG_CACHE_HOME`` or
            ``~/.cache``. What is in there may be deleted at any time.
    """

    def __init__(self, cache: str | None) -> None:
        self.cache = user_cache() if cache == "user" else cache and Path(cache)

    def images(self, folder: Path) -> list[bytes]:
        """The images in a folder and its subfolders, by their paths within it, sorted.

        Raises:
            UserError: A folder cannot be read.
        """
        key = hashlib.sha256(b"\0".join([VERSION, *SUFFIXES, os.fsencode(folder.absolute())])).hexdigest()
        entry = self.cache and self.cache / "scan" / key
        names = _recall(entry, folder) if entry else None
        if names is None:
            try:
                names, stamps = _list(folder)
            except OSError as error:
                raise UserError(
                    f"data.root: {os.fsdecode(error.filename)} cannot be read ({error.strerror})"
                ) from error
            if entry:
                _remember(entry, names, stamps)
        return names


def user_cache() -> Path | None:
    """The folder for what can be made again, or None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "convatlas"
    except RuntimeError:
        return None


def _list(folder: Path) -> tuple[list[bytes], Stamps]:
    names: list[bytes] = []
    stamps: Stamps = {}
    pending = [b""]
    while pending:
        within = pending.pop()
        path = os.path.join(os.fsencode(folder), within)  # noqa: PTH118  no Path for each of a million files
        stamps[os.fsdecode(within)] = _stamp(path)  # before the listing: a change during it must count
        with os.scandir(path) as entries:
            for entry in entries:
                name = os.path.join(within, entry.name)  # noqa: PTH118
                if entry.is_dir():
                    if not entry.is_symlink():
                        pending.append(name)
                elif entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(b"."):
                    names.append(name)
    return sorted(names), stamps


def _stamp(path: bytes | Path) -> list[int]:
    status = os.stat(path)  # noqa: PTH116
    return [status.st_mtime_ns, status.st_ctime_ns]


def _recall(entry: Path, folder: Path) -> list[bytes] | None:
    """What the entry says, unless it is missing, damaged or out of date."""
    try:
        header, names = (read_entry(entry) or b"").split(b"\n", 1)
        for within, stamp in json.loads(header).items():
            if _stamp(folder / within) != stamp:
                return None
    except (OSError, ValueError):
        return None
    return names.split(b"\0")[:-1]


def _remember(entry: Path, names: list[bytes], stamps: Stamps) -> None:
    if max(map(max, stamps.values())) > (time.time() - SETTLED_SECONDS) * 1e9:
        return
    write_entry(entry, json.dumps(stamps).encode() + b"\n" + b"".join(name + b"\0" for name in names))


def read_entry(entry: Path) -> bytes | None:
    """The content of a cache entry, or None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        digest, content = entry.read_bytes().split(b"\n", 1)
        if digest.decode() == hashlib.sha256(content).hexdigest():
            return content
    return None


def write_entry(entry: Path, content: bytes) -> None:
    """Replace a cache entry, if the cache can be written."""
    temporary = entry.with_name(f"{entry.name}.{os.getpid()}")  # all ranks of a run may write it
    with contextlib.suppress(OSError):  # a start without a cache is slower, and no worse
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        temporary.replace(entry)
