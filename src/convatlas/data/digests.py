"""Sizes and content digests of the files of a data set: they tell one data set from another.

The size of every image is read at every start, because a file that is rewritten in place does not change its folder.
The content of masks is digested once and remembered in the user's cache folder, for as long as a file keeps its path,
size, times and inode number. The times decide whether a remembered digest still holds; they are no part of the result.
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
"""The path of a file of a list, by its position."""
Stamp = list[int]
"""What a file has as long as it is not written to: size in bytes, times of modification and of change in ns, inode."""
Rows = dict[str, tuple[Stamp, str]]
"""Stamp and SHA-256 of files, by absolute path."""
ROWS = TypeAdapter(dict[Any, tuple[Stamp, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]])
"""The same as a cache entry has it; names of files need not be UTF-8, as pydantic's own texts are."""

VERSION = "1"
"""Of the cache's entries."""
THREADS = 16
"""More than there are cores: on network storage each waits for an answer."""
FILES_PER_TASK = 256
GROUP_SIZE = 4096
"""Mean number of files whose digests are remembered together."""
SAVE_SECONDS = 30
"""Between two times that an unfinished group is remembered; a shard may take minutes to read."""
ABSENT = bytes(hashlib.sha256().digest_size)
"""In place of the digest of a file that is missing or cannot be read: training names such a file, or leaves it out."""
FAULTS_OF_THE_FILE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Errors that stay until somebody mends the file; others are the disk's and may be gone at the next start."""


class FileDigests:
    """Computes digests of lists of files, in the order of the list.

    Args:
        images: What an image counts by: its ``size`` in bytes, or its ``content``.
        cache: Where content digests are remembered; None remembers none, ``user`` is ``convatlas`` in
            ``XDG_CACHE_HOME`` or ``~/.cache``. What is in there may be deleted at any time.
    """

    def __init__(self, images: Literal["size", "content"] = "size", cache: str | None = "user") -> None:
        self._images = images
        self._cache = scan.user_cache() if cache == "user" else cache and Path(cache)

    def images(self, count: int, path: PathOf, kind: str = "image") -> dict[str, str]:
        """The sizes or contents of images, whichever they count by.

        Args:
            count: Number of files.
            path: Their paths.
            kind: What a file is called.

        Returns:
            One digest, as hexadecimal digits, by its name: ``<kind>_sizes`` or ``<kind>_contents``.
        """
        if self._images == "content":
            return {f"{kind}_contents": self.contents(count, path, f"{kind}s")}
        return {f"{kind}_sizes": self.sizes(count, path, f"{kind}s")}

    def sizes(self, count: int, path: PathOf, label: str) -> str:
        """SHA-256 of the sizes of files, as hexadecimal digits.

        Args:
            count: Number of files.
            path: Their paths.
            label: What the files are called where progress is shown.

        Raises:
            UserError: The disk refuses an answer; names the file.
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
        """SHA-256 of the contents of files, as hexadecimal digits; the names do not enter it.

        Args:
            count: Number of files.
            path: Their paths.
            label: What the files are called where progress is shown.

        Raises:
            UserError: The disk refuses an answer; names the file.
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
        """The digests of a group of files; a file whose digest is remembered is not read."""
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
    """SHA-256 of named digests, as hexadecimal digits; the order in which they were found does not count."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def text_digest(lines: Iterable[str]) -> str:
    """SHA-256 of lines of text, as hexadecimal digits; names of files may hold bytes that are no UTF-8."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(os.fsencode(line) + b"\0")
    return digest.hexdigest()


def _stamp(path: str) -> Stamp | None:
    """The stamp of a file; None if there is no such file, or something else: a pipe would be waited for without end."""
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
    """The digest of a file, and its stamp if the digest may be remembered."""
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
    """Cut a list of paths where a path's own checksum says so: a new file changes the group around it alone."""
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
    """Call a function in several threads; only a few calls are ahead of what is taken."""
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
