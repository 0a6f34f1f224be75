"""Folders, shards and class lists; what is wrong with them is said in one line."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from convatlas.config.composition import compose
from convatlas.data.class_list import ClassList
from convatlas.data.classification.datasets import fashion_mnist_sample, image_folder, torchvision_arrays
from convatlas.data.sources.shards import ShardSample, ShardSource, index_path, write_shard
from convatlas.errors import UserError
from tests.fixtures import write_image_folder

ROOT = Path(__file__).parents[3]


def test_val_is_reported_where_there_is_no_test(tmp_path: Path) -> None:
    found = image_folder(3, root=str(write_image_folder(tmp_path, ["b", "a"], per_class=2, size=8)))
    assert found.class_list.names == ("a", "b")
    assert found.val is None
    assert found.test.path(0) == str(tmp_path / "val" / "a" / "000.jpg")
    assert found.train.labels.tolist() == [0, 0, 1, 1]


def test_a_test_folder_is_reported_and_val_is_for_tuning(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=2, size=8, splits=("train", "val", "test"))
    found = image_folder(3, root=str(root))
    assert found.val is not None
    assert "/val/" in found.val.path(0)
    assert "/test/" in found.test.path(0)


def test_a_class_list_file_sets_the_order(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=1, size=8)
    (root / "classes.txt").write_text("b\na\n", encoding="utf-8")
    found = image_folder(3, root=str(root))
    assert found.class_list.names == ("b", "a")
    assert "/b/" in found.train.path(0)
    assert found.class_list.hash != ClassList(("a", "b")).hash


def broken_folder(root: Path, problem: str) -> None:
    write_image_folder(root, ["a", "b"], per_class=1, size=8)
    if problem == "no train":
        (root / "train").rename(root / "training")
    elif problem == "empty train":
        (root / "train").rename(root / "training")
        (root / "train").mkdir()
    elif problem == "class without images":
        (root / "train" / "b" / "000.jpg").rename(root / "train" / "b" / "000.txt")
    elif problem == "class missing in val":
        (root / "val" / "b").rename(root / "b")
    elif problem == "strange class in val":
        (root / "val" / "c").mkdir()


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    picture = (write_image_folder(tmp_path, ["a"], per_class=1, size=8) / "train" / "a" / "000.jpg").read_bytes()
    for name in ("b.JPEG", "0/é.jpg", "10.png", ".hidden.jpg", "notes.txt"):
        path = tmp_path / "train" / "a" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture)
    Path(os.fsdecode(bytes(tmp_path / "train" / "a") + b"/latin-\xe9.jpg")).write_bytes(picture)
    source = image_folder(3, root=str(tmp_path)).train
    names = [os.fsencode(source.path(index).removeprefix(f"{tmp_path}/train/a/")) for index in range(5)]
    assert names == ["0/é.jpg".encode(), b"000.jpg", b"10.png", b"b.JPEG", b"latin-\xe9.jpg"]
    assert source.open(4).pixels().shape == (3, 8, 16)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("no train", "train is missing; expected a folder with a folder for each class"),
        ("empty train", "train is empty; expected a folder for each class"),
        ("class without images", "train/b has no images; expected .jpg"),
        ("class missing in val", "val/b is missing"),
        ("strange class in val", "val/c is not one of the 2 classes"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(problem: str, message: str, tmp_path: Path) -> None:
    broken_folder(tmp_path, problem)
    with pytest.raises(UserError, match=r"^data\.root") as caught:
        image_folder(3, root=str(tmp_path))
    assert message in str(caught.value)


def test_a_missing_root_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.root=/nowhere: no such folder"):
        image_folder(3, root="/nowhere")


@pytest.mark.parametrize("content", ["", "a\na\n"])
def test_a_class_list_names_each_class_once(content: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"classes\.txt: expected one class name a line"):
        ClassList.read(path)


def test_a_class_has_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("ant\n\x1b[2Jbee\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"class '\\x1b\[2Jbee': expected a name without line breaks and other control"):
        ClassList.read(path)


def test_differing_class_lists_are_both_named() -> None:
    with pytest.raises(UserError) as caught:
        ClassList(("a", "b")).check_equal(ClassList(("b", "a")), "checkpoint=x", "data=y")
    assert "checkpoint=x has 2 (a, b; hash" in str(caught.value)
    assert "data=y has 2 (b, a; hash" in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "imagenette"])
def test_missing_data_are_named_with_the_key_that_fetches_them(name: str, tmp_path: Path) -> None:
    overrides = [f"data={name}", f"data.root={tmp_path}", "data.dataset.download=false"]
    with pytest.raises(InstantiationException) as caught:
        instantiate(compose("train", overrides).data)
    assert f"data.root={tmp_path}: no " in str(caught.value.__cause__)
    assert "data.dataset.download=true would fetch it" in str(caught.value.__cause__)


def test_a_failed_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10", unreachable)
    with pytest.raises(UserError, match=r"no CIFAR10 there and it could not be downloaded \(.*no route to host"):
        torchvision_arrays(3, dataset="CIFAR10", root=str(tmp_path / "new"), download=True)


def test_ranks_download_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Lock()

    def slow(*_: Any, train: bool, **__: Any) -> Any:
        assert inside.acquire(blocking=False)
        time.sleep(0.02)
        inside.release()
        return SimpleNamespace(data=np.zeros((1, 2, 2), np.uint8), targets=[0], classes=["a"])

    monkeypatch.setattr("torchvision.datasets.CIFAR10", slow)
    fetch = partial(torchvision_arrays, 1, dataset="CIFAR10", root=str(tmp_path), download=True)
    with ThreadPoolExecutor(3) as ranks:
        waiting = [ranks.submit(fetch) for _ in range(3)]
        assert [future.result().train.labels.tolist() for future in waiting] == [[0]] * 3


def test_fashion_mnist_is_read_from_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    for prefix in ("train", "t10k"):
        header = b"\0\0\x08\x03" + b"".join(side.to_bytes(4, "big") for side in images.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x14" + bytes([*range(10)] * 2))
    overrides = ["data=fashion_mnist", f"data.root={tmp_path}", "data.dataset.download=false", "data.val_fraction=0.5"]
    data = instantiate(compose("train", overrides).data)
    assert (data.num_samples("train"), data.num_samples("val"), data.num_samples("test")) == (10, 10, 20)
    assert np.array_equal(data.load("test", 3)[0], images[3])
    assert data.path("test", 3) == "FashionMNIST/test[3]"
    assert data.class_list == fashion_mnist_sample(1).class_list


def test_shards_round_trip_and_tar_lists_them(tmp_path: Path) -> None:
    images = sorted((write_image_folder(tmp_path / "f", ["a", "b"], 2, 8) / "train").rglob("*.jpg"))
    samples = [ShardSample(f"{label:05d}.jpg", path.read_bytes(), label) for label, path in enumerate(images)]
    first, second = tmp_path / "x-000000.tar", tmp_path / "x-000001.tar"
    write_shard(first, samples[:3])
    write_shard(second, samples[3:])
    source = ShardSource([first, second], 3)
    assert source.labels.tolist() == [0, 1, 2, 3]
    assert source.path(3) == "x-000001.tar/00003.jpg"
    folder = image_folder(3, root=str(tmp_path / "f")).train
    assert all(np.array_equal(source.open(index).pixels(), folder.open(index).pixels()) for index in range(4))
    listed = subprocess.run(["tar", "tf", str(first)], capture_output=True, text=True, check=True).stdout.split()
    assert listed == ["00000.jpg", "00000.cls", "00001.jpg", "00001.cls", "00002.jpg", "00002.cls"]


def test_the_same_samples_are_the_same_shard(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, [ShardSample("0.png", b"1", 0), ShardSample("1.png", b"22", 1)])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert index_path(tmp_path / "a.tar").read_bytes() == index_path(tmp_path / "b.tar").read_bytes()


def test_a_shard_without_its_index_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [ShardSample("0.png", b"1", 0)])
    index_path(tmp_path / "a.tar").unlink()
    with pytest.raises(UserError, match=r"a\.index\.npy: missing"):
        ShardSource([tmp_path / "a.tar"], 1)


def test_the_embedded_images_are_balanced() -> None:
    found = fashion_mnist_sample(1)
    assert np.bincount(found.train.labels).tolist() == [500] * 10
    assert np.bincount(found.test.labels).tolist() == [100] * 10
    assert found.class_list.names[9] == "Ankle boot"
    assert found.train.open(0).pixels().shape == (1, 28, 28)
    assert found.train.labels[:20].tolist() == [*range(10), *range(10)]


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_embedded_images_rebuild_bit_for_bit() -> None:
    script = ROOT / "scripts" / "build_fashion_mnist_sample.py"
    checked = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stderr
