"""List the images of folders, with a cache that lasts from one start of the program to the next.

Listing a million files takes minutes on a network file system. Therefore the list of a class folder is written to the
cache as soon as it is complete. It is used as long as no directory in the class folder changes. If the program is
killed while it lists, the next start continues with the first class folder that is not in the cache.

This module decides for all verbs and task types which files are images: those with a known suffix that are not hidden.
"""

import contextlib
import errno
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from convatlas.data.images.decode import IMAGE_SUFFIXES
from convatlas.errors import UserError
from convatlas.utils.files import printable

SUFFIXES = tuple(suffix.encode() for suffix in IMAGE_SUFFIXES)
VERSION = b"2"
"""Version of the format of a cache entry."""
SETTLED_SECONDS = 2
"""A folder that changed less than this many seconds ago is not cached: its times may not show the next change."""
Stamps = dict[str, list[int]]
"""Modification time in ns, change time in ns and inode number of each directory in a folder, by relative path.

The list is empty for a broken link.
"""
HEADER = TypeAdapter(tuple[dict[Any, list[int]], dict[Any, int]])
"""Validates the stamps and counts of a listing. Keys are ``Any``, because pydantic requires strings to be UTF-8."""
Parsed = TypeVar("Parsed")
ARCHIVE_FOLDER = b"__MACOSX"
"""The folder of resource files that macOS puts into every zip archive."""
LONGEST_SUFFIX = 10
"""Maximum length of a suffix in characters. The end of ``scan 1.Page two of three`` does not count as a suffix."""
NO_SUFFIX, BROKEN_LINK = "without suffix", "broken link"
SUFFIXES_TOLD = 8
"""Maximum number of suffixes that ``passed_over_text`` names."""


@dataclass
class Listing:
    """The images in a folder and its subfolders, with counts of the other files.

    Attributes:
        names: The paths of the images in the folder, sorted.
        passed_over: Number of other files that are not hidden, by suffix.
        stamps: The state of each directory.
    """

    names: list[bytes] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    stamps: Stamps = field(default_factory=dict)


class ImageScan:
    """Lists the images of class folders.

    Args:
        cache: The cache folder. None disables the cache; ``user`` means ``convatlas`` in ``XDG_CACHE_HOME`` or
            ``~/.cache``. The content of the folder may be deleted at any time.
        key: The configuration key that names the folders, for messages.

    Attributes:
        passed_over: Number of files that are not images, by suffix, in all folders listed so far.
    """

    def __init__(self, cache: str | None, key: str = "data.root") -> None:
        self.cache = user_cache() if cache == "user" else cache and Path(cache)
        self.key = key
        self.passed_over: Counter[str] = Counter()

    def images(self, folder: Path) -> list[bytes]:
        """List the images in a folder and its subfolders, by relative path, sorted.

        An image is a file with a suffix of ``IMAGE_SUFFIXES`` in any case. Hidden files and folders (``is_hidden``)
        are left out at any depth. Links to folders are followed, except a link to a folder that contains the link.

        Raises:
            UserError: A folder cannot be read.
        """
        key = hashlib.sha256(b"\0".join([VERSION, *SUFFIXES, os.fsencode(folder.absolute())])).hexdigest()
        entry = self.cache and self.cache / "scan" / key
        listing = _recall(entry, folder) if entry else None
        if listing is None:
            try:
                listing = _list(folder)
            except OSError as error:
                raise UserError(
                    f"{self.key}: {os.fsdecode(error.filename)} cannot be read ({error.strerror})"
                ) from error
            if entry:
                _remember(entry, listing)
        self.passed_over += listing.passed_over
        return listing.names


def is_hidden(name: bytes) -> bool:
    """Check whether a file or folder is left out because its name begins with a full stop or is ``__MACOSX``."""
    return name.startswith(b".") or name == ARCHIVE_FOLDER


def suffix_of(name: bytes) -> str:
    """Return the suffix of a file name in lower case, by which files that are not images are counted."""
    suffix = printable(os.fsdecode(os.path.splitext(name)[1])).lower()  # noqa: PTH122  no Path for each of many files
    return suffix if 1 < len(suffix) <= LONGEST_SUFFIX and " " not in suffix else NO_SUFFIX


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """Format the counts of files that are not images: ``12 files passed over: 7 .heic, 3 without suffix, 2 .txt``."""
    counts = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} {suffix}" for suffix, count in counts[:SUFFIXES_TOLD]]
    if rest := sum(count for _, count in counts[SUFFIXES_TOLD:]):
        told.append(f"{rest:,} with other suffixes")
    total = sum(passed_over.values())
    return f"{total:,} file{'s' * (total != 1)} passed over: {', '.join(told)}"


def user_cache() -> Path | None:
    """Return the user's cache folder, or None for a user without a home directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "convatlas"
    except RuntimeError:
        return None


def _list(folder: Path) -> Listing:
    listing = Listing()
    pending: list[tuple[bytes, frozenset[tuple[int, int]]]] = [(b"", frozenset())]
    while pending:
        within, above = pending.pop()
        path = os.path.join(os.fsencode(folder), within)  # noqa: PTH118  no Path for each of a million files
        status = os.stat(path)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        listing.stamps[os.fsdecode(within)] = _stamp(status)  # before listing, so that a change during it shows
        if identity in above:  # a link to a folder that contains the link
            continue
        with os.scandir(path) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                name = os.path.join(within, entry.name)  # noqa: PTH118
                if _is_folder(entry):
                    pending.append((name, above | {identity}))
                elif entry.name.lower().endswith(SUFFIXES):
                    listing.names.append(name)
                elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                    listing.passed_over[BROKEN_LINK] += 1
                    listing.stamps[os.fsdecode(name)] = []  # its target may be created later
                else:
                    listing.passed_over[suffix_of(entry.name)] += 1
    listing.names.sort()
    return listing


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself counts as a broken link
            return False
        raise


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _stamp_now(path: Path) -> list[int]:
    try:
        return _stamp(path.stat())
    except OSError:
        return []


def _recall(entry: Path, folder: Path) -> Listing | None:
    """Read a listing from the cache; None if the entry is missing, damaged or out of date."""
    try:
        header, names = (read_entry(entry) or b"").split(b"\n", 1)
        stamps, passed_over = parse_entry(header, HEADER)
        if any(_stamp_now(folder / within) != stamp for within, stamp in stamps.items()):
            return None
    except ValueError:
        return None
    return Listing(names.split(b"\0")[:-1], Counter(passed_over), stamps)


def _remember(entry: Path, listing: Listing) -> None:
    if max(max(stamp[:2], default=0) for stamp in listing.stamps.values()) > (time.time() - SETTLED_SECONDS) * 1e9:
        return
    header = json.dumps([listing.stamps, listing.passed_over]).encode()
    write_entry(entry, header + b"\n" + b"".join(name + b"\0" for name in listing.names))


def read_entry(entry: Path) -> bytes | None:
    """Return the content of a cache entry, or None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        digest, content = entry.read_bytes().split(b"\n", 1)
        if digest.decode() == hashlib.sha256(content).hexdigest():
            return content
    return None


def parse_entry(content: bytes, form: TypeAdapter[Parsed]) -> Parsed:
    """Parse the JSON of a cache entry.

    Raises:
        ValueError: The entry is damaged or has another structure.
    """
    try:
        return form.validate_python(json.loads(content))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_entry(entry: Path, content: bytes) -> None:
    """Replace a cache entry; do nothing if the cache cannot be written."""
    temporary = entry.with_name(f"{entry.name}.{os.getpid()}")  # all ranks of a run may write it
    with contextlib.suppress(OSError):  # without a cache, a start is only slower
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        temporary.replace(entry)
