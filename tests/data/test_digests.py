"""Digests of files: right whatever the cache holds, and a file is read only when it must be."""

import errno
import hashlib
import io
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convatlas.data import digests
from convatlas.data.digests import ABSENT, FileDigests
from convatlas.data.sources import scan
from convatlas.errors import UserError
from convatlas.utils import console


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was written a moment ago be remembered; the clock of files ticks every few milliseconds."""
    monkeypatch.setattr(scan, "SETTLED_SECONDS", -1)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read."""
    names: list[str] = []
    real = hashlib.file_digest

    def spy(file: io.BufferedReader, name: str) -> Any:
        names.append(Path(file.name).name)
        return real(file, name)

    monkeypatch.setattr(hashlib, "file_digest", spy)
    return names


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "masks"
    folder.mkdir()
    paths = [folder / f"{number:02d}.png" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number * (number + 1))
    return paths


def contents(paths: list[Path], cache: Path | None) -> str:
    files = FileDigests(cache=str(cache) if cache else None)
    return files.contents(len(paths), lambda index: str(paths[index]), "masks")


def sizes(paths: list[Path]) -> str:
    return FileDigests().sizes(len(paths), lambda index: str(paths[index]), "images")


def expected(paths: list[Path]) -> str:
    found = [hashlib.sha256(path.read_bytes()).digest() if path.is_file() else ABSENT for path in paths]
    return hashlib.sha256(b"".join(found)).hexdigest()


def test_the_digests_are_those_of_all_files_in_order(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "FILES_PER_TASK", 3)
    monkeypatch.setattr(digests, "THREADS", 2)
    assert contents(files, None) == expected(files)
    assert contents(files[::-1], None) == expected(files[::-1]) != expected(files)
    bytes_of_each = np.array([path.stat().st_size for path in files], "<i8")
    assert sizes(files) == hashlib.sha256(bytes_of_each.tobytes()).hexdigest()
    assert sizes(files[::-1]) == hashlib.sha256(bytes_of_each[::-1].tobytes()).hexdigest()
    assert contents([], None) == sizes([]) == hashlib.sha256(b"").hexdigest()


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(files: list[Path], tmp_path: Path, read: list[str]) -> None:
    for _ in range(3):
        assert contents(files, tmp_path / "cache") == expected(files)
    assert sorted(set(read)) == [path.name for path in files]
    assert len(read) == len(files)


@pytest.mark.usefixtures("settled")
def test_another_current_folder_reads_nothing_again(
    files: list[Path], tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents(files, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert contents([path.relative_to(tmp_path) for path in files], tmp_path / "cache") == expected(files)
    assert len(read) == len(files)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", ["content", "content, and the time set back", "another file in its place", "touch"])
def test_a_file_that_changed_is_read_again(change: str, files: list[Path], tmp_path: Path, read: list[str]) -> None:
    before = contents(files, tmp_path / "cache")
    path, status = files[7], files[7].stat()
    other = b"y" * status.st_size
    if change == "touch":
        os.utime(path)
    elif change == "another file in its place":
        (tmp_path / "other").write_bytes(other)
        os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
        (tmp_path / "other").replace(path)
    else:
        path.write_bytes(other)
        if change != "content":
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read.clear()
    after = contents(files, tmp_path / "cache")
    assert read == ["07.png"]
    assert (after == before) == (change == "touch")
    assert after == expected(files)


def test_a_file_that_was_written_just_now_is_not_remembered(files: list[Path], tmp_path: Path) -> None:
    assert contents(files, tmp_path / "cache") == expected(files)
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashlib.file_digest

    def changed(file: io.BufferedReader, name: str) -> Any:
        found = real(file, name)
        Path(file.name).write_bytes(b"longer than it was, whatever it was, by a good deal of bytes, I am sure")
        return found

    monkeypatch.setattr(hashlib, "file_digest", changed)
    contents(files, tmp_path / "cache")
    monkeypatch.setattr(hashlib, "file_digest", real)
    assert contents(files, tmp_path / "cache") == expected(files)


@pytest.mark.usefixtures("settled")
def test_a_new_file_leaves_the_rest_remembered(
    files: list[Path], tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "GROUP_SIZE", 4)
    monkeypatch.setattr(zlib, "crc32", lambda path: int(Path(os.fsdecode(path)).name[:2]))
    contents(files, tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "digests").iterdir())) == 10
    read.clear()
    new = files[20].with_name("21a.png")
    new.write_bytes(b"new")
    longer = sorted([*files, new])
    assert contents(longer, tmp_path / "cache") == expected(longer)
    assert read == ["21a.png"]
    read.clear()
    assert contents(files, tmp_path / "cache") == expected(files)
    assert contents(longer, tmp_path / "cache") == expected(longer)
    assert read == []


OTHER_FORMS = (b"[" * 100_000, b"[]", b'{"a": 3}', b'{"a": [[1, 2, 3, 4], "no digest"]}')
"""Contents that no cache entry has, stored under a right digest."""


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"half", b"flipped", *OTHER_FORMS])
def test_a_damaged_cache_is_passed_over(damage: bytes, files: list[Path], tmp_path: Path, read: list[str]) -> None:
    contents(files, tmp_path / "cache")
    for entry in (tmp_path / "cache" / "digests").iterdir():
        whole = entry.read_bytes()
        flipped = whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]
        if damage in OTHER_FORMS:
            scan.write_entry(entry, damage)
            continue
        entry.write_bytes({b"half": whole[: len(whole) // 2], b"flipped": flipped}.get(damage, damage))
    read.clear()
    assert contents(files, tmp_path / "cache") == expected(files)
    assert len(read) == len(files)
    contents(files, tmp_path / "cache")
    assert len(read) == len(files)


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_stops_nothing(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert contents(files, tmp_path / "file" / "cache") == expected(files)


@pytest.mark.usefixtures("settled")
def test_a_start_that_was_killed_goes_on_where_it_was(
    files: list[Path], tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "THREADS", 1)
    monkeypatch.setattr(digests, "SAVE_SECONDS", -1)
    spy = hashlib.file_digest

    def killed(file: io.BufferedReader, name: str) -> Any:
        if file.name.endswith("30.png"):
            raise KeyboardInterrupt
        return spy(file, name)

    monkeypatch.setattr(hashlib, "file_digest", killed)
    with pytest.raises(KeyboardInterrupt):
        contents(files, tmp_path / "cache")
    monkeypatch.setattr(hashlib, "file_digest", spy)
    read.clear()
    assert contents(files, tmp_path / "cache") == expected(files)
    assert not {path.name for path in files[:20]} & set(read)
    assert {path.name for path in files[30:]} <= set(read)


def test_what_is_no_file_counts_as_missing(files: list[Path]) -> None:
    whole = contents(files, None), sizes(files)
    files[3].unlink()
    files[4].unlink()
    files[4].symlink_to(files[4])
    files[5].unlink()
    os.mkfifo(files[5])
    assert contents(files, None) == expected(files) != whole[0]
    assert sizes(files) != whole[1]


def test_a_fault_of_the_disk_is_named(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", refused)
    with pytest.raises(UserError, match=r"^data\.root: .*/00\.png cannot be read \(Input/output error\)$"):
        contents(files, None)


@pytest.mark.parametrize(("rank", "told"), [("0", True), ("1", False)])
def test_what_takes_long_shows_its_progress_on_the_first_rank(
    rank: str, told: bool, files: list[Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    contents(files, None)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(console, "QUIET_SECONDS", -1)
    contents(files, None)
    assert ("digests of masks  40/40  " in capfd.readouterr().err) == told


@pytest.mark.usefixtures("settled")
def test_names_that_are_no_utf8_are_remembered_too(tmp_path: Path, read: list[str]) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(b"x")
    for _ in range(2):
        assert contents([path], tmp_path / "cache") == expected([path])
    assert len(read) == 1
    assert digests.text_digest([str(path)]) == hashlib.sha256(os.fsencode(path) + b"\0").hexdigest()
