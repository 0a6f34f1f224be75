"""Which images a folder holds, remembered from one start to the next.

Listing a million files takes minutes on a network file system. So what a class folder holds is written down as soon as
it is read, and believed for as long as no directory in it has changed; a start that was killed goes on where it was.

Which files are images is decided here for all verbs and problem types: by the suffix, and not in hidden folders.
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
"""Of what the cache holds."""
SETTLED_SECONDS = 2
"""A directory that changed this recently may change again within one tick of its clock: it is not remembered."""
Stamps = dict[str, list[int]]
"""Times of modification and of change, in ns, and inode of each directory in a folder, by its path within it; nothing
for a link to nothing."""
HEADER = TypeAdapter(tuple[dict[Any, list[int]], dict[Any, int]])
"""Stamps and counts of a listing; pydantic's own texts are UTF-8, and names need not be."""
Parsed = TypeVar("Parsed")
ARCHIVE_FOLDER = b"__MACOSX"
"""The folder of resource files that macOS puts into every zip archive."""
LONGEST_SUFFIX = 10
"""Characters; what is longer, as in ``scan 1.Page two of three``, is no suffix."""
NO_SUFFIX, BROKEN_LINK = "without suffix", "broken link"
SUFFIXES_TOLD = 8
"""Suffixes of files passed over that a line names."""


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
        cache: Where the lists are kept; None keeps none, ``user`` is ``convatlas`` in ``XDG_CACHE_HOME`` or
            ``~/.cache``. What is in there may be deleted at any time.
        key: The configuration key that names the folders, for messages.

    Attributes:
        passed_over: Number of files that are no images in all folders listed so far, by suffix.
    """

    def __init__(self, cache: str | None, key: str = "data.root") -> None:
        self.cache = user_cache() if cache == "user" else cache and Path(cache)
        self.key = key
        self.passed_over: Counter[str] = Counter()

    def images(self, folder: Path) -> list[bytes]:
        """The images in a folder and its subfolders, by their paths within it, sorted.

        An image is a file with a suffix of ``IMAGE_SUFFIXES`` in any case. Hidden files and folders (``is_hidden``)
        are left out at any depth. Links to folders are followed, except to a folder that the link lies in.

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
    """Check whether a file or folder is left out: its name begins with a full stop, or is ``__MACOSX``."""
    return name.startswith(b".") or name == ARCHIVE_FOLDER


def suffix_of(name: bytes) -> str:
    """The suffix of a file's name in lower case, as files that are passed over are counted."""
    suffix = printable(os.fsdecode(os.path.splitext(name)[1])).lower()  # noqa: PTH122  no Path for each of many files
    return suffix if 1 < len(suffix) <= LONGEST_SUFFIX and " " not in suffix else NO_SUFFIX


def passed_over_text(passed_over: Mapping[str, int]) -> str:
    """Say how many files are no images: ``12 files passed over: 7 .heic, 3 without suffix, 2 .txt``."""
    counts = sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{count:,} {suffix}" for suffix, count in counts[:SUFFIXES_TOLD]]
    if rest := sum(count for _, count in counts[SUFFIXES_TOLD:]):
        told.append(f"{rest:,} with other suffixes")
    total = sum(passed_over.values())
    return f"{total:,} file{'s' * (total != 1)} passed over: {', '.join(told)}"


def user_cache() -> Path | None:
    """The folder for what can be made again, or None for a user without a home."""
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
        listing.stamps[os.fsdecode(within)] = _stamp(status)  # before the listing: a change during it must count
        if identity in above:  # a link to a folder that it lies in
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
                    listing.stamps[os.fsdecode(name)] = []  # a folder may appear behind it
                else:
                    listing.passed_over[suffix_of(entry.name)] += 1
    listing.names.sort()
    return listing


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself is like a link to nothing
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
    """What the entry says, unless it is missing, damaged or out of date."""
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
    """The content of a cache entry, or None if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        digest, content = entry.read_bytes().split(b"\n", 1)
        if digest.decode() == hashlib.sha256(content).hexdigest():
            return content
    return None


def parse_entry(content: bytes, form: TypeAdapter[Parsed]) -> Parsed:
    """Parse the JSON of a cache entry.

    Raises:
        ValueError: It is damaged, or has another form.
    """
    try:
        return form.validate_python(json.loads(content))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_entry(entry: Path, content: bytes) -> None:
    """Replace a cache entry, if the cache can be written."""
    temporary = entry.with_name(f"{entry.name}.{os.getpid()}")  # all ranks of a run may write it
    with contextlib.suppress(OSError):  # a start without a cache is slower, and no worse
        entry.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        temporary.replace(entry)
