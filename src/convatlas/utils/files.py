"""Write small files durably, and read them with one-line errors."""

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from convatlas.errors import NewerFormatError, UnreadableError, UserError
from convatlas.utils.nesting import is_nested_too_deeply, is_writable

FORMAT = 1
"""Version of the format of records, checkpoints and sweeps; files without one are older and can be read."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk and of a full quota."""
Source = TypeVar("Source")
Value = TypeVar("Value")


def jsonable(value: Any) -> Any:
    """Replace NaN and infinities by ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value


def dumps(value: Any, indent: int | None = None) -> str:
    """Serialise to standard JSON; paths and other objects become strings."""
    return json.dumps(jsonable(value), indent=indent, default=str, allow_nan=False)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file durably: after a kill or a power cut it holds either the old or the new content.

    Raises:
        UserError: The disk is full or cannot be written; the file still holds the old content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, temporary):
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)


def write_picture(path: Path, content: bytes) -> None:
    """Write a file that can be produced again and is therefore not synced.

    Raises:
        UserError: The disk is full or cannot be written.
    """
    with writing(path):
        path.write_bytes(content)


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Report a full or read-only disk as one line that names the file.

    Args:
        path: The file that is written in this context.
        temporary: The temporary file of the write; it is deleted after a failure to free space.

    Raises:
        UserError: The operating system refused the write.
    """
    try:
        yield
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):  # a read-only disk; the first error counts
                temporary.unlink(missing_ok=True)
        advice = "; make room there and give the same command again" if error.errno in FULL else ""
        raise UserError(f"{path} cannot be written ({error.strerror}){advice}") from error


def sync_file(path: Path) -> None:
    """Sync the content of a file to the disk, whichever process wrote it."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_directory(path: Path) -> None:
    """Sync the entries of a directory to the disk: a rename alone may be lost in a power cut."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a directory
            raise


def make_directory(path: Path) -> None:
    """Make a directory and its parents durably.

    Raises:
        OSError: One of them cannot be made.
    """
    missing = [folder for folder in (path, *path.absolute().parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_directory(folder.absolute().parent)


def read_json(path: Path, kind: type[Value]) -> Value:
    """Read a JSON file that holds an object (``dict``) or a list.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadableError: The file is damaged; it is left as it is.
    """
    return _read(path, "a JSON object" if kind is dict else "a JSON list", json.loads, kind)


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; as ``read_json``."""
    return _read(path, "a YAML mapping", yaml.safe_load, dict)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file; as ``read_json``."""
    return _read(path, "lines of UTF-8 text", str.splitlines, list)


def _read(path: Path, expected: str, parse: Callable[[str], Any], kind: type[Value]) -> Value:
    if path.exists() and not path.is_file():  # reading a pipe or a device may never end
        raise UnreadableError(f"{path}: cannot be read (not a regular file)")
    try:
        text = path.read_bytes().decode()
        value = parse(text)
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
    except OSError as error:
        raise UnreadableError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UnreadableError(f"{path}: damaged, expected {expected}") from error
    unusable = is_nested_too_deeply(value) or ("\\" in text and not is_writable(value))
    if "\0" in text or not isinstance(value, kind) or unusable:
        raise UnreadableError(f"{path}: damaged, expected {expected}")
    return value


def check_format(place: object, content: Mapping[str, Any]) -> None:
    """Refuse the content of a newer format version; content without a version predates the versions.

    Args:
        place: Name of the file in the message.
        content: A mapping with the version as ``format``.

    Raises:
        NewerFormatError: The version is higher than ``FORMAT``.
        UnreadableError: The version is no integer.
    """
    version = content.get("format", 0)
    if not isinstance(version, int):
        raise UnreadableError(f"{place}: damaged, expected an integer as format")
    if version > FORMAT:
        raise NewerFormatError(
            f"{place}: written by a newer ConvAtlas; its format is {version}, this version reads up to {FORMAT}"
        )


def read_each(sources: Iterable[Source], read: Callable[[Source], Value]) -> tuple[list[Value], list[str]]:
    """Read several runs, and leave out those that cannot be read.

    Args:
        sources: The runs.
        read: Reads one of them.

    Returns:
        The values that were read, and the reason for each run that is left out.
    """
    values, damages = [], []
    for source in sources:
        try:
            values.append(read(source))
        except UnreadableError as error:
            damages.append(str(error))
    return values, damages


def printable(name: str) -> str:
    """Escape characters that a terminal or UTF-8 cannot represent: file names may hold any byte."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)
