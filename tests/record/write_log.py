"""What a run writes, as a power cut may leave it: a log of writes, syncs, renames and deletions, and its prefixes."""

import builtins
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Files = dict[str, bytes]
"""The files of a folder by their relative names."""


@dataclass
class Node:
    """A file as the file system has it: its content in memory, and what of it is on the disk."""

    content: bytes = b""
    synced: bytes = b""


@dataclass
class Names:
    """A folder: its names in memory, those on the disk, and the changes in between, in order."""

    current: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    changes: list[tuple[str, Node | None]] = field(default_factory=list)

    def change(self, name: str, node: Node | None) -> None:
        self.changes.append((name, node))
        _apply(self.current, name, node)


def _apply(names: dict[str, Node], name: str, node: Node | None) -> None:
    names.pop(name, None)
    if node is not None:
        names[name] = node


class WriteLog:
    """Follows what happens in a folder, and collects every state that a power cut may leave.

    Of a file that was not synced the new content may be there, half of it, or nothing of it. Of the changes of names
    since the last sync of their folder all may be there, or none.

    Args:
        root: The folder; it exists and is empty.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folders: dict[str, Names] = {"": Names()}
        self.states: dict[tuple[tuple[str, bytes], ...], None] = {}
        self.events: list[str] = []

    def look(self) -> None:
        """Notice what was written or made since the last event."""
        for folder, names, files in os.walk(self.root):
            place = self._name(Path(folder))
            for name in names:
                self.folders.setdefault(self._name(Path(folder, name)), Names())
            for name in files:
                node = self.folders[place].current.get(name)
                if node is None:
                    node = Node()
                    self.folders[place].change(name, node)
                content = _read(Path(folder, name))
                if content != node.content:
                    node.content = content
                    self._event(f"write {place}/{name}")

    def sync(self, path: Path) -> None:
        """A file or a folder is on the disk."""
        name = self._name(path)
        if path.is_dir():
            folder = self.folders[name]
            folder.durable, folder.changes = dict(folder.current), []
        else:
            node = self.folders[self._name(path.parent)].current[path.name]
            node.synced = node.content
        self._event(f"sync {name}")

    def rename(self, path: Path, target: Path) -> None:
        """A file has another name in the same folder."""
        folder = self.folders[self._name(path.parent)]
        node = folder.current[path.name]
        folder.changes += [(path.name, None), (target.name, node)]
        _apply(folder.current, path.name, None)
        _apply(folder.current, target.name, node)
        self._event(f"rename {self._name(path)} {target.name}")

    def unlink(self, path: Path) -> None:
        """A file is deleted."""
        self.folders[self._name(path.parent)].change(path.name, None)
        self._event(f"unlink {self._name(path)}")

    def _name(self, path: Path) -> str:
        relative = path.resolve().relative_to(self.root)
        return "" if relative == Path() else str(relative)

    def _event(self, text: str) -> None:
        self.events.append(text)
        for names_kept in (True, False):
            for content in ("kept", "half", "dropped"):
                self.states[tuple(sorted(self._state(names_kept, content).items()))] = None

    def _state(self, names_kept: bool, content: str) -> Files:
        found = {}
        for place, folder in self.folders.items():
            for name, node in (folder.current if names_kept else folder.durable).items():
                half = (len(node.synced) + len(node.content)) // 2
                left = {"kept": node.content, "half": node.content[:half], "dropped": node.synced}[content]
                found[f"{place}/{name}".removeprefix("/")] = left
        return found


def _read(path: Path) -> bytes:
    """The content of a file, read by functions that are not watched."""
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)


@contextmanager
def logged(root: Path) -> Iterator[WriteLog]:
    """Log what this process writes into a folder, by taking the place of the functions that do it."""
    log = WriteLog(root)
    with pytest.MonkeyPatch.context() as patch:

        def inside(path: Any) -> bool:
            return isinstance(path, str | os.PathLike) and Path(path).absolute().is_relative_to(log.root)

        def watched(original: Callable[..., Any], note: Callable[..., None] | None = None) -> Callable[..., Any]:
            def call(*arguments: Any, **keywords: Any) -> Any:
                if not inside(arguments[0]):
                    return original(*arguments, **keywords)
                log.look()
                result = original(*arguments, **keywords)
                if note is not None:
                    note(*map(Path, arguments))
                return result

            return call

        def fsync(number: int) -> None:
            path = Path(f"/proc/self/fd/{number}").readlink()
            original_fsync(number)
            if inside(path):
                log.look()
                log.sync(path)

        original_fsync = os.fsync
        patch.setattr(os, "fsync", fsync)
        for name in ("replace", "rename"):
            patch.setattr(os, name, watched(getattr(os, name), log.rename))
        for name in ("unlink", "remove"):
            patch.setattr(os, name, watched(getattr(os, name), log.unlink))
        patch.setattr(os, "truncate", watched(os.truncate))
        opened = watched(io.open)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        yield log
    log.look()
