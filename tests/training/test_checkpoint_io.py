import errno
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from convatlas.errors import UserError
from convatlas.training import checkpoint_io as checkpoints
from convatlas.training.checkpoint_io import AtomicCheckpointIO, newest_checkpoint, read_checkpoint, read_run_checkpoint


def test_a_checkpoint_round_trips_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}, "epoch": 1}, path)
    assert torch.equal(read_checkpoint(path)["state_dict"]["w"], torch.ones(2))
    assert [item.name for item in path.parent.iterdir()] == ["last.ckpt"]


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        AtomicCheckpointIO().save_checkpoint({"epoch": lambda: 1}, path)
    assert read_checkpoint(path) == {"epoch": 1}


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)  # type: ignore[return-value]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint=.*x\.ckpt: truncated or not a file of tensors"):
        read_checkpoint(path)


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"w": torch.ones(10_000)}, path)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(UserError, match="truncated"):
        read_checkpoint(path)


def test_code_in_a_checkpoint_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "evil.ckpt")
    with pytest.raises(UserError):
        read_checkpoint(Path("evil.ckpt"))
    assert not Path("executed").exists()


def test_foreign_weights_are_told_from_our_checkpoints(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"model\.weights="):
        read_run_checkpoint(tmp_path / "w.pth")


def test_an_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    whole = {
        "convatlas": {"config": {"model": {}, "data": {}}, "class_list": ["a"]},
        "state_dict": {},
        "global_step": 1,
    }
    path = tmp_path / "x.ckpt"
    for damaged in (
        whole | {"convatlas": None},
        whole | {"convatlas": {"config": {"model": {}}, "class_list": ["a"]}},
        *(
            whole | {"convatlas": {"config": {"model": {}, "data": {}}, "class_list": names}}
            for names in ([1], ["a\nb"], ["\x1b[2J"], ["\ud800"], ["a", "a"])
        ),
        whole | {"state_dict": {"w": 1.0}},
        {key: value for key, value in whole.items() if key != "global_step"},
    ):
        torch.save(damaged, path)
        with pytest.raises(UserError, match=r"x\.ckpt: incomplete; expected state_dict, global_step"):
            read_run_checkpoint(path)
    torch.save(whole, path)
    assert read_run_checkpoint(path) == whole


def write_run_checkpoint(path: Path, step: int) -> Path:
    metadata = {"config": {"model": {}, "data": {}}, "class_list": []}
    content = {"convatlas": metadata, "global_step": step, "state_dict": {"w": torch.ones(1000)}}
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def test_the_previous_checkpoint_replaces_a_damaged_one_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last, previous = (write_run_checkpoint(tmp_path / f"{name}.ckpt", step) for name, step in (("l", 2), ("p", 1)))
    newest = newest_checkpoint(last, previous)
    assert newest is not None
    assert (newest[0], newest[1]["global_step"], capsys.readouterr().err) == (last, 2, "")
    last.write_bytes(last.read_bytes()[:2000])
    newest = newest_checkpoint(last, previous)
    assert newest is not None
    assert newest[1]["global_step"] == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "l.ckpt: truncated" in line
    assert line.endswith("resuming from p.ckpt")


def test_only_rank_zero_warns_of_a_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoints, "is_rank_zero", lambda: False)
    last, previous = (write_run_checkpoint(tmp_path / f"{name}.ckpt", step) for name, step in (("l", 2), ("p", 1)))
    last.write_bytes(b"")
    newest = newest_checkpoint(last, previous)
    assert newest is not None
    assert (newest[0], capsys.readouterr().err) == (previous, "")


def test_one_flipped_byte_of_the_weights_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last, previous = (write_run_checkpoint(tmp_path / f"{name}.ckpt", step) for name, step in (("l", 2), ("p", 1)))
    content = bytearray(last.read_bytes())
    content[content.index(torch.ones(9).numpy().tobytes()) + 5] ^= 1
    last.write_bytes(content)
    newest = newest_checkpoint(last, previous)
    assert newest is not None
    assert newest[1]["global_step"] == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "l.ckpt: damaged: the checksum of" in line


def test_a_kill_between_two_names_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    previous = write_run_checkpoint(tmp_path / "p.ckpt", 1)
    newest = newest_checkpoint(tmp_path / "l.ckpt", previous)
    assert newest is not None
    assert newest[1]["global_step"] == 1
    assert capsys.readouterr().err == ""


def test_a_run_never_begins_again_over_damaged_checkpoints(tmp_path: Path) -> None:
    last = tmp_path / "l.ckpt"
    assert newest_checkpoint(last) is None
    last.write_bytes(b"")
    with pytest.raises(UserError, match=r"no other checkpoint is left: run\.fresh=true"):
        newest_checkpoint(last, tmp_path / "p.ckpt")


def test_a_full_disk_is_one_error_and_leaves_the_checkpoint_before(small_disk: Path) -> None:
    path = write_run_checkpoint(small_disk / "last.ckpt", 1)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written \(No space left on device\)"):
        AtomicCheckpointIO().save_checkpoint({"w": torch.ones(1_000_000)}, path)
    assert read_checkpoint(path)["global_step"] == 1
    assert [item.name for item in small_disk.iterdir()] == ["last.ckpt"]
    write_run_checkpoint(path, 2)
    assert read_checkpoint(path)["global_step"] == 2


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of one MiB where one may be mounted; elsewhere a folder in which large files do not fit."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path], capture_output=True
    ).returncode
    if mounted == 0:
        yield tmp_path
        subprocess.run(["umount", tmp_path], check=True)
        return
    save = torch.save

    def save_if_it_fits(content: dict[str, torch.Tensor], file: BinaryIO) -> None:
        save(content, file)
        if file.tell() > 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", save_if_it_fits)
    yield tmp_path
