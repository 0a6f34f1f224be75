"""A disk that is full, has no inode left, or becomes read-only: one error that names the file; nothing is lost."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import compose
from convatlas.data.images.decode import ImageError
from convatlas.data.skipped import SkippedImages
from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import RunLock
from convatlas.tasks import evaluation
from convatlas.tracking.local import LocalRecord
from convatlas.training.callbacks.checkpointing import RunCheckpoints
from convatlas.training.checkpoint_io import AtomicCheckpointIO
from convatlas.utils.files import write_atomic
from pipelines.train import train
from tests.conftest import Command
from tests.record.test_write_log import TINY

FULL, READ_ONLY = r"\(No space left on device\)", r"\(Read-only file system\)"
MOMENTS: dict[str, tuple[Any, str, int]] = {
    "record": (LocalRecord, "log_metrics", 1),
    "checkpoint": (AtomicCheckpointIO, "save_checkpoint", 2),
    "naming": (RunCheckpoints, "_commit", 4),
    "evaluation": (evaluation, "evaluation_file", 1),
    "end": (RunDirectory, "update", 1),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MiB and 200 files."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=200", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a file system can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave not one byte."""
    with (folder / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**20, 2**12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass


def use_up_inodes(folder: Path) -> None:
    """Leave no inode."""
    with contextlib.suppress(OSError):
        for number in range(1000):
            (folder / f"inode-{number}").touch()


def make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def make_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
    for path in [folder / "filler", *folder.glob("inode-*")]:
        path.unlink(missing_ok=True)


def at(moment: str, happens: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Let something happen to the disk just before a call of a moment's function."""
    owner, name, call = MOMENTS[moment]
    original = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            happens()
        return original(*arguments, **keywords)

    patch.setattr(owner, name, counted)


@pytest.mark.parametrize(
    ("moment", "happens", "error"),
    [
        ("record", fill, rf"metrics\.jsonl cannot be written {FULL}; make room there and give the same command"),
        ("checkpoint", fill, rf"\.ckpt cannot be written {FULL}; make room there"),
        ("evaluation", fill, rf"\.png cannot be written {FULL}"),
        ("checkpoint", use_up_inodes, rf"\.ckpt cannot be written {FULL}"),
        ("evaluation", use_up_inodes, rf"test\.json cannot be written {FULL}"),
        ("record", make_read_only, rf"metrics\.jsonl cannot be written {READ_ONLY}"),
        ("naming", make_read_only, rf"last\.ckpt cannot be written {READ_ONLY}"),
        ("end", make_read_only, rf"cannot be written {READ_ONLY}"),
    ],
)
def test_the_first_error_is_told_and_the_same_command_goes_on(
    disk: Path, moment: str, happens: Callable[[Path], None], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = compose("train", [*TINY, "trainer.max_epochs=1", f"run.root={disk / 'runs'}"])
    with monkeypatch.context() as patch:
        at(moment, lambda: happens(disk), patch)
        with pytest.raises(UserError, match=error):
            train(command)
    (path,) = (disk / "runs").iterdir()
    run = RunDirectory(path)
    if happens is not make_read_only:
        assert run.summary["state"] == "failed"
        assert run.summary["reason"].startswith("UserError: ")
    make_room(disk)
    if moment in ("record", "naming"):
        (path / "lock.json").unlink(missing_ok=True)  # of this process, which lives on
        assert train(command)["state"] == "finished"
        assert not (path / ".reserve").exists()


def test_a_run_that_ends_on_a_full_disk_is_finished(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def happens() -> None:
        fill(disk)
        use_up_inodes(disk)

    at("end", happens, monkeypatch)
    result = train(compose("train", [*TINY, "trainer.max_epochs=1", f"run.root={disk / 'runs'}"]))
    assert result["state"] == "finished"


def test_the_command_ends_with_one_line_and_status_2(disk: Path, convatlas: Command) -> None:
    fill(disk)
    with (disk / "filler").open("ab") as file:
        file.truncate(file.tell() - 600_000)  # room for all but a checkpoint
    done = convatlas("train", *TINY, f"run.root={disk / 'runs'}")
    errors = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert done.returncode == 2
    assert len(errors) == 1
    assert errors[0].startswith("convatlas: error: ")
    assert "pending.ckpt cannot be written (No space left on device)" in errors[0]
    assert "Traceback" not in done.stderr


def test_small_files_on_a_full_disk(disk: Path) -> None:
    path = disk / "f"
    write_atomic(path, "old")
    skipped = SkippedImages()
    skipped.log = disk / "skipped_images.txt"
    fill(disk)
    with pytest.raises(UserError, match=rf"/f cannot be written {FULL}"):
        write_atomic(path, "new" * 10_000)
    with pytest.raises(UserError, match=rf"skipped_images\.txt cannot be written {FULL}"):
        skipped.add(ImageError("a.jpg", "damaged", "cut off"))
    use_up_inodes(disk)
    with pytest.raises(UserError, match=rf"lock-guard cannot be written {FULL}"), RunLock(disk):
        pass
    assert path.read_text(encoding="utf-8") == "old"
    assert not path.with_name(".f.tmp").exists()


def test_a_lock_on_a_disk_that_became_read_only_hides_no_error(disk: Path) -> None:
    lock = RunLock(disk)
    lock.__enter__()
    make_read_only(disk)
    lock.__exit__(None, None, None)
    assert (disk / "lock.json").is_file()
