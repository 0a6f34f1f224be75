"""What a folder holds is listed once, kept while it is true, and small enough for ten million images."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convatlas.data.classification.datasets import image_folder
from convatlas.data.images.decode import IMAGE_SUFFIXES
from convatlas.data.sources import scan
from convatlas.data.sources.packed_names import Names
from convatlas.data.sources.scan import ImageScan, passed_over_text, user_cache, write_entry
from convatlas.errors import UserError
from tests.fixtures import PEAK_MEMORY, write_image_folder

BYTES_PER_SAMPLE = 90
"""Ten million images in 0.9 GB."""

MEASURE = """
import sys
import time
import numpy as np
from convatlas.data.sources import images as sources
from convatlas.data.class_list import ClassList
from convatlas.data.classification.module import ClassificationDataModule
from convatlas.data.dataset import Dataset
from convatlas.data.sampler import train_batches
from convatlas.data.sources.scan import ImageScan

CLASSES, PER_CLASS = 1000, 1000
classes = ClassList(tuple(f"n{number:08d}" for number in range(CLASSES)))
sources.class_folders = lambda root: list(classes.names)
ImageScan.images = lambda self, folder: [b"%s_%d.JPEG" % (folder.name.encode(), i) for i in range(PER_CLASS)]
few = sources.ArraySource(np.zeros((CLASSES, 2, 2), np.uint8), np.arange(CLASSES), "few")


def dataset(in_channels):
    train = sources.FolderSource(Path("/x"), classes, in_channels)
    return Dataset(classes, train=train, val=None if sys.argv[1] == "cut" else few, test=few)


before = peak()
module = ClassificationDataModule(
    name="x", dataset=dataset, num_classes=None, in_channels=3, image_size=8, resize=None, mean=[0.0] * 3,
    std=[1.0] * 3, val_fraction=0.1, global_batch_size=256, threads=1, prefetch=0, seed=0,
)
batches = train_batches(module.num_samples("train"), 256, 1, 0, 0, 0, 1)
module.fingerprint
assert module.num_samples("train") == CLASSES * PER_CLASS * (9 if sys.argv[1] == "cut" else 10) // 10
assert module.sources["train"].path(CLASSES * PER_CLASS - 1) == "/x/n00000999/n00000999_999.JPEG"
print((peak() - before) / (CLASSES * PER_CLASS))
"""


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what was written a moment ago be remembered; the clock of directories ticks every few milliseconds."""
    monkeypatch.setattr(scan, "SETTLED_SECONDS", -1)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that were really listed, in order."""
    folders: list[str] = []
    real = os.scandir

    def spy(path: Any) -> Any:
        folders.append(os.fsdecode(path).rstrip("/"))
        return real(path)

    monkeypatch.setattr(os, "scandir", spy)
    return folders


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names or ("b.jpg", "sub/a.png", "10.JPEG", "notes.txt", ".hidden.jpg"):
        path = tmp_path / "class" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "class"


def backdated(top: Path) -> Path:
    """A folder that changed long ago: whatever the clock of its file system, the next change gives it another time."""
    for directory in (top / "sub", top):
        os.utime(directory, (0, 0))
    return top


@pytest.mark.usefixtures("settled")
def test_an_unchanged_folder_is_listed_once(tmp_path: Path, listed: list[str]) -> None:
    top = folder(tmp_path)
    expected = [b"10.JPEG", b"b.jpg", b"sub/a.png"]
    for _ in range(3):
        assert ImageScan(str(tmp_path / "cache")).images(top) == expected
    assert listed == [str(top), str(top / "sub")]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", ["new.jpg", "sub/new.jpg", "other/new.jpg"])
def test_a_new_image_is_seen_at_once(change: str, tmp_path: Path) -> None:
    top = backdated(folder(tmp_path))
    images = ImageScan(str(tmp_path / "cache"))
    assert change.encode() not in images.images(top)
    folder(tmp_path, change)
    assert change.encode() in images.images(top)


@pytest.mark.usefixtures("settled")
def test_a_removed_subfolder_is_seen_at_once(tmp_path: Path) -> None:
    top = backdated(folder(tmp_path))
    images = ImageScan(str(tmp_path / "cache"))
    assert len(images.images(top)) == 3
    (top / "sub" / "a.png").unlink()
    (top / "sub").rmdir()
    assert images.images(top) == [b"10.JPEG", b"b.jpg"]


def test_a_folder_that_changed_just_now_is_not_remembered(tmp_path: Path) -> None:
    ImageScan(str(tmp_path / "cache")).images(folder(tmp_path))
    assert not (tmp_path / "cache").exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(("name", "value"), [("SUFFIXES", (*scan.SUFFIXES, b".txt")), ("VERSION", b"next")])
def test_a_list_of_another_version_or_of_other_suffixes_is_not_believed(
    name: str, value: object, tmp_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    top = folder(tmp_path)
    images = ImageScan(str(tmp_path / "cache"))
    images.images(top)
    monkeypatch.setattr(scan, name, value)
    assert (b"notes.txt" in images.images(top)) == (name == "SUFFIXES")
    assert listed == 2 * [str(top), str(top / "sub")]


OTHER_FORMS = (b"[" * 100_000 + b"\n", b"[[], {}]\n", b'[{"": 3}, {}]\n', b'[{"": []}, {"a": "x"}]\n', b"5\n")
"""Headers that no listing has, in an entry whose digest is right."""


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"half", *OTHER_FORMS])
def test_a_damaged_cache_is_read_anew(content: bytes, tmp_path: Path, listed: list[str]) -> None:
    top = folder(tmp_path)
    images = ImageScan(str(tmp_path / "cache"))
    names = images.images(top)
    (entry,) = (tmp_path / "cache" / "scan").iterdir()
    if content in OTHER_FORMS:
        write_entry(entry, content)
    else:
        entry.write_bytes(entry.read_bytes()[:-4] if content == b"half" else content)
    assert images.images(top) == names
    assert images.images(top) == names
    assert listed == 2 * [str(top), str(top / "sub")]


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    top = folder(tmp_path)
    (tmp_path / "file").touch()
    assert len(ImageScan(str(tmp_path / "file" / "cache")).images(top)) == 3


@pytest.mark.usefixtures("settled")
def test_a_scan_that_was_killed_goes_on(tmp_path: Path, listed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_image_folder(tmp_path / "images", ["a", "b", "c"], per_class=1, size=8)
    real = scan._list

    def killed(path: Path) -> Any:
        if path.parts[-2:] == ("train", "c"):
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(scan, "_list", killed)
    with pytest.raises(KeyboardInterrupt):
        image_folder(3, root=str(root), scan_cache=str(tmp_path / "cache"))
    monkeypatch.setattr(scan, "_list", real)
    listed.clear()
    found = image_folder(3, root=str(root), scan_cache=str(tmp_path / "cache"))
    folders = [path for path in listed if path != str(root)]
    assert folders == [str(root / "train" / "c"), *(str(root / "val" / name) for name in "abc")]
    assert found.train.labels.tolist() == [0, 1, 2]


@pytest.mark.usefixtures("settled")
def test_without_a_cache_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    top = folder(tmp_path)
    ImageScan(None).images(top)
    assert not (tmp_path / "cache").exists()
    ImageScan("user").images(top)
    assert (tmp_path / "cache" / "convatlas" / "scan").is_dir()


def test_the_cache_of_a_user_is_in_the_home_or_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_cache() == Path("/home/someone/.cache/convatlas")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert user_cache() is None


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: bytes) -> Any:
        raise PermissionError(13, "Permission denied", path)

    top = folder(tmp_path)
    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"data\.root: .*class/ cannot be read \(Permission denied\)"):
        ImageScan(None).images(top)


def test_a_split_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", path)

    root = write_image_folder(tmp_path / "images", ["a"], per_class=1, size=8)
    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(UserError, match=r"data\.root: .*/images/train cannot be read \(Permission denied\)"):
        image_folder(3, root=str(root))


def test_a_root_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=r"data\.root=.*: cannot be read \(no permission\)"):
        image_folder(3, root=str(tmp_path))


def test_names_are_taken_group_by_group() -> None:
    taken: list[int] = []

    def groups() -> Iterator[list[bytes]]:
        for number in range(3):
            taken.append(number)
            yield [b"x" * (number + 1)] * number

    names = Names(groups())
    assert taken == [0, 1, 2]
    assert [names[index] for index in range(len(names))] == [b"xx", b"xxx", b"xxx"]
    assert names.counts.tolist() == [0, 1, 2]
    assert names.digest() != Names([[b"xxx", b"xx", b"xxx"]]).digest()


@pytest.mark.parametrize("val", ["cut", "given"])
def test_ten_million_images_fit_in_a_gigabyte(val: str) -> None:
    done = subprocess.run([sys.executable, "-c", PEAK_MEMORY + MEASURE, val], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 30 < float(done.stdout) < BYTES_PER_SAMPLE  # the names alone take more than 30


def scanned(top: Path, cache: Path | None = None) -> tuple[list[str], dict[str, int]]:
    images = ImageScan(None if cache is None else str(cache))
    return [name.decode() for name in images.images(top)], dict(images.passed_over)


def test_hidden_files_and_folders_are_left_out_at_any_depth(tmp_path: Path) -> None:
    hidden = (".ipynb_checkpoints/a.jpg", "sub/.Trash/deep/b.png", "__MACOSX/c.jpg", "sub/._a.jpg", ".DS_Store")
    top = folder(tmp_path, "a.jpg", "sub/b.jpg", *hidden)
    annexed = tmp_path / ".git" / "annex" / "1.jpg"
    annexed.parent.mkdir(parents=True)
    annexed.touch()
    (top / "c.jpg").symlink_to(annexed)  # its name counts, not where it leads to
    assert scanned(top) == (["a.jpg", "c.jpg", "sub/b.jpg"], {})


def test_known_suffixes_in_any_case_are_images_and_others_are_counted(tmp_path: Path) -> None:
    images = [f"{number:02d}{suffix}" for number, suffix in enumerate(IMAGE_SUFFIXES)]
    expected = ("jpg", "jpeg", "jpe", "jif", "jfif", "mpo", "png", "webp", "bmp", "tif", "tiff", "gif", "pnm", "pbm")
    assert {f".{suffix}" for suffix in expected} <= set(IMAGE_SUFFIXES)
    others = ("1.heic", "2.HEIC", "3.heic", "README", "x.", "My cat. Age 3", "notes.txt", "sub/Thumbs.db")
    top = folder(tmp_path, *images, "sub/A.JfIf", *others)
    (top / "gone").symlink_to("nowhere")
    names, passed_over = scanned(top)
    assert names == [*images, "sub/A.JfIf"]
    assert passed_over == {".heic": 3, "without suffix": 3, ".txt": 1, ".db": 1, "broken link": 1}
    assert passed_over_text(passed_over) == (
        "9 files passed over: 3 .heic, 3 without suffix, 1 .db, 1 .txt, 1 broken link"
    )
    assert passed_over_text({f".{number}": 1 for number in range(10)}).endswith("1 .7, 2 with other suffixes")
    assert passed_over_text({".txt": 1}) == "1 file passed over: 1 .txt"


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    top = folder(tmp_path, "a.jpg", "sub/b.jpg")
    more = tmp_path / "more"
    (more / "deep").mkdir(parents=True)
    for name in ("m.jpg", "deep/n.jpg"):
        (more / name).touch()
    (top / "more").symlink_to(more)
    (top / "again").symlink_to(more / "deep")
    (more / "back").symlink_to(top)
    (top / "sub" / "up").symlink_to("..")
    (top / "self.jpg").symlink_to("self.jpg")
    expected = ["a.jpg", "again/n.jpg", "more/deep/n.jpg", "more/m.jpg", "self.jpg", "sub/b.jpg"]
    assert scanned(top) == (expected, {})


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", ["new image", "another target", "a target again"])
def test_a_change_behind_a_link_is_seen_at_once(change: str, tmp_path: Path) -> None:
    for name in ("first/1.jpg", "second/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    current, top = tmp_path / "current", folder(tmp_path, "a.jpg")
    (top / "more").symlink_to(current)
    if change != "a target again":
        current.symlink_to("first")
    cache = tmp_path / "cache"
    for _ in range(2):
        assert scanned(top, cache)[0] == (["a.jpg"] if change == "a target again" else ["a.jpg", "more/1.jpg"])
    time.sleep(0.02)
    if change == "new image":
        (tmp_path / "first" / "3.jpg").touch()
    else:
        current.unlink(missing_ok=True)
        current.symlink_to("second")
    assert scanned(top, cache)[0] == [
        "a.jpg",
        *(["more/1.jpg", "more/3.jpg"] if change == "new image" else ["more/2.jpg"]),
    ]


@pytest.mark.usefixtures("settled")
def test_what_is_passed_over_is_remembered(tmp_path: Path, listed: list[str]) -> None:
    top = folder(tmp_path, "a.jpg", "b.txt", "sub/c.heic")
    for _ in range(2):
        assert scanned(top, tmp_path / "cache") == (["a.jpg"], {".txt": 1, ".heic": 1})
    assert listed == [str(top), str(top / "sub")]


def test_the_files_of_all_splits_are_counted_and_those_in_no_class_too(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=1, size=8)
    for name in ("train/a/x.heic", "train/b/x.txt", "val/a/y.heic", "val/loose.jpg", "train/.hidden", "train/list"):
        (root / name).touch()
    (root / "train" / "__MACOSX" / "a").mkdir(parents=True)
    found = image_folder(3, root=str(root))
    assert found.class_list.names == ("a", "b")
    outside = {".jpg outside the class folders": 1, "without suffix outside the class folders": 1}
    assert found.passed_over == {".heic": 2, ".txt": 1, **outside}
