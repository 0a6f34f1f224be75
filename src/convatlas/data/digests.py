"""Compute digests of the sizes and contents of files, which identify a data set.

The size of every image is read at every start, because a file that is rewritten in place does not change its folder.
The digest of the content of a mask is computed once and kept in the user's cache folder. It is valid as long as the
file keeps its path, size, times and inode number. The times are only used for the cache; they do not enter the result.
"""

import errno
import hashlib
import json
import os
import stat
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field, TypeAdapter

from convatlas.data.sources import scan
from convatlas.errors import UserError
from convatlas.utils.console import slow_progress

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")
PathOf = Callable[[int], str]
"""Returns the path of a file by its position in a list."""
Stamp = list[int]
"""The state of a file: size in bytes, modification time in ns, change time in ns, inode number."""
Rows = dict[str, tuple[Stamp, str]]
"""The stamp and the SHA-256 of each file by its absolute path."""
ROWS = TypeAdapter(dict[Any, tuple[Stamp, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]])
"""Validates the rows of a cache entry. Keys are ``Any``, because pydantic requires strings to be UTF-8."""

VERSION = "1"
"""Version of the format of a cache entry."""
THREADS = 16
"""Number of threads. It exceeds the number of cores, because threads wait for network storage."""
FILES_PER_TASK = 256
GROUP_SIZE = 4096
"""Mean number of files in a cache entry."""
SAVE_SECONDS = 30
"""Seconds between two writes of an unfinished cache entry. A large file may take minutes to read."""
ABSENT = bytes(hashlib.sha256().digest_size)
"""Replaces the digest of a file that is missing or cannot be read.

This is no error here: training reports such a file or leaves it out.
"""
FAULTS_OF_THE_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Errors that belong to the file and stay until it is repaired. Others belong to the disk and may be temporary."""


class FileDigests:
    """Computes digests of lists of files, in the order of the list.

    Args:
        images: Whether the digest of images covers their ``size`` in bytes or their ``content``.
        cache: The cache folder of content digests. None disables the cache; ``user`` means ``convatlas`` in
            ``XDG_CACHE_HOME`` or ``~/.cache``. The content of the folder may be deleted at any time.
    """

    def __init__(self, images: Literal["size", "content"] = "size", cache: str | None = "user") -> None:
        self._images = images
        self._cache = scan.user_cache() if cache == "user" else cache and Path(cache)

    def images(self, count: int, path: PathOf, kind: str = "image") -> dict[str, str]:
        """Compute a digest of the sizes or of the contents of images, as configured.

        Args:
            count: Number of files.
            path: Returns the path of a file.
            kind: The name of a file in the result and in the display of progress.

        Returns:
            One digest, as hexadecimal digits, by its name: ``<kind>_sizes`` or ``<kind>_contents``.
        """
        if self._images == "content":
            return {f"{kind}_contents": self.contents(count, path, f"{kind}s")}
        return {f"{kind}_sizes": self.sizes(count, path, f"{kind}s")}

    def sizes(self, count: int, path: PathOf, label: str) -> str:
        """Compute the SHA-256 of the sizes of files, as hexadecimal digits.

        Args:
            count: Number of files.
            path: Returns the path of a file.
            label: The name of the files in the display of progress.

        Raises:
            UserError: The disk fails. The message names the file.
        """

        def sizes(indices: range) -> bytes:
            stamps = [_stamp(path(index)) for index in indices]
            return np.array([-1 if stamp is None else stamp[0] for stamp in stamps], "<i8").tobytes()

        digest = hashlib.sha256()
        with slow_progress(f"sizes of {label}", count, "files") as advance:
            for part in _in_order(sizes, _parts(count)):
                digest.update(part)
                advance(len(part) // 8)
        return digest.hexdigest()

    def contents(self, count: int, path: PathOf, label: str) -> str:
        """Compute the SHA-256 of the contents of files, as hexadecimal digits. It does not depend on their names.

        Args:
            count: Number of files.
            path: Returns the path of a file.
            label: The name of the files in the display of progress.

        Raises:
            UserError: The disk fails. The message names the file.
        """
        digest = hashlib.sha256()
        here = str(Path.cwd())
        absolute = (os.path.join(here, path(index)) for index in range(count))  # noqa: PTH118  as in _stamp
        with slow_progress(f"digests of {label}", count, "files") as advance:
            for paths in _groups(absolute):
                for file_digest in self._group(paths, advance):
                    digest.update(file_digest)
        return digest.hexdigest()

    def _group(self, paths: Sequence[str], advance: Callable[[int], None]) -> list[bytes]:
        """Compute the digests of a group of files. A file whose digest is in the cache is not read."""
        key = hashlib.sha256(os.fsencode(f"{VERSION}\0{paths[0]}")).hexdigest()
        entry = self._cache and self._cache / "digests" / key
        rows = _recall(entry) if entry else {}
        known = {
            path: ABSENT if stamp is None else bytes.fromhex(rows[path][1])
            for path, stamp in zip(paths, _stamps(paths), strict=True)
            if stamp is None or (path in rows and rows[path][0] == stamp)
        }
        missing = [path for path in paths if path not in known]
        advance(len(paths) - len(missing))
        saved, unsaved = time.monotonic(), False
        for path, (stamp, found) in zip(missing, _in_order(_digest, missing), strict=True):
            known[path] = found
            if stamp is not None:
                rows[path] = stamp, found.hex()
                unsaved = True
            if entry and unsaved and time.monotonic() - saved > SAVE_SECONDS:
                _remember(entry, rows)
                saved, unsaved = time.monotonic(), False
            advance(1)
        if entry and unsaved:
            _remember(entry, rows)
        return [known[path] for path in paths]


def combined(parts: dict[str, str]) -> str:
    """Compute the SHA-256 of named digests, as hexadecimal digits. Their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def text_digest(lines: Iterable[str]) -> str:
    """Compute the SHA-256 of lines of text, as hexadecimal digits. File names with invalid UTF-8 are allowed."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(os.fsencode(line) + b"\0")
    return digest.hexdigest()


def _stamp(path: str) -> Stamp | None:
    """Return the stamp of a regular file; None if there is none. Pipes are excluded, because reading them may block."""
    try:
        status = os.stat(path)  # noqa: PTH116  no Path for each of a million files
    except OSError as error:
        _check_fault(path, error)
        return None
    return _stamp_of(status) if stat.S_ISREG(status.st_mode) else None


def _stamps(paths: Sequence[str]) -> Iterator[Stamp | None]:
    for part in _in_order(lambda indices: [_stamp(paths[index]) for index in indices], _parts(len(paths))):
        yield from part


def _stamp_of(status: os.stat_result) -> Stamp:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _digest(path: str) -> tuple[Stamp | None, bytes]:
    """Compute the digest of a file. The stamp is None if the digest must not be cached."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            before = _stamp_of(os.fstat(file.fileno()))
            found = hashlib.file_digest(file, "sha256").digest()
            after = _stamp_of(os.fstat(file.fileno()))
    except OSError as error:
        _check_fault(path, error)
        return None, ABSENT
    # A file that changed a moment ago may change again within one tick of its clock.
    settled = max(after[1], after[2]) <= (time.time() - scan.SETTLED_SECONDS) * 1e9
    return (after if settled and before == after else None), found


def _check_fault(path: str, error: OSError) -> None:
    if error.errno not in FAULTS_OF_THE_FILE:
        raise UserError(f"data.root: {path} cannot be read ({error.strerror})") from error


def _recall(entry: Path) -> Rows:
    try:
        return scan.parse_entry(scan.read_entry(entry) or b"{}", ROWS)
    except ValueError:
        return {}


def _remember(entry: Path, rows: Rows) -> None:
    scan.write_entry(entry, json.dumps(rows).encode())


def _groups(paths: Iterable[str]) -> Iterator[list[str]]:
    """Cut a list of paths into groups.

    The checksum of a path decides whether a group begins with it. Therefore a new file changes only its own group.
    """
    group: list[str] = []
    for path in paths:
        if group and zlib.crc32(os.fsencode(path)) % GROUP_SIZE == 0:
            yield group
            group = []
        group.append(path)
    if group:
        yield group


def _parts(count: int) -> Iterator[range]:
    return (range(start, min(start + FILES_PER_TASK, count)) for start in range(0, count, FILES_PER_TASK))


def _in_order(function: Callable[[ArgumentT], ResultT], arguments: Iterable[ArgumentT]) -> Iterator[ResultT]:
    """Call a function in several threads and yield the results in order.

    At most ``2 * THREADS`` calls are submitted before the consumer takes a result.
    """
    waiting: deque[Future[ResultT]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="digests")
    try:
        for argument in arguments:
            waiting.append(pool.submit(function, argument))
            if len(waiting) == 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
