import errno
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from convatlas.errors import UnreadableError, UserError
from convatlas.utils.files import dumps, make_directory, read_json, read_mapping, write_atomic
from convatlas.utils.nesting import MAX_DEPTH


def test_non_finite_numbers_become_text() -> None:
    text = dumps({"a": float("nan"), "b": [float("inf"), -float("inf")], "c": 1.5, "d": Path("x")})
    assert json.loads(text) == {"a": "NaN", "b": ["Infinity", "-Infinity"], "c": 1.5, "d": "x"}


@pytest.mark.parametrize(("depth", "is_read"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (20_000, False)])
def test_json_and_yaml_nested_too_deeply_are_one_line(depth: int, is_read: bool, tmp_path: Path) -> None:
    path = tmp_path / "f"
    readers: list[tuple[str, str, Callable[[Path], Any]]] = [
        ('{"a":', "}", partial(read_json, kind=dict)),
        ("[", "]", partial(read_json, kind=list)),
        ("{a: ", "}", read_mapping),
    ]
    for opening, closing, read in readers:
        path.write_text(f"{opening * depth}{closing * depth}".replace(":}", ":1}"), encoding="utf-8")
        if is_read:
            assert read(path)
        else:
            with pytest.raises(UnreadableError, match=rf"^{path}: damaged, expected a (JSON|YAML) \w+$"):
                read(path)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", "old")
    write_atomic(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_file_and_its_name_are_synced_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def log_sync(number: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{number}').readlink().name}")
        fsync(number)

    def log_rename(source: Path, target: Path) -> None:
        done.append(f"rename {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "replace", log_rename)
    write_atomic(tmp_path / "f", "new")
    assert done == ["sync .f.tmp", "rename f", f"sync {tmp_path.name}"]
    done.clear()
    make_directory(tmp_path / "a" / "b")
    assert done == ["sync a", f"sync {tmp_path.name}"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "f", "old")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"/f cannot be written \(No space left on device\); make room there"):
        write_atomic(tmp_path / "f", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text(encoding="utf-8") == "old"
