"""The data sets: where the images and classes of each lie."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torchvision

from convatlas.data.class_list import ClassList
from convatlas.data.shards import ShardSource
from convatlas.data.sources import ArraySource, FolderSource, Source, class_folders
from convatlas.errors import UserError

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set.

    Args:
        class_list: The classes, in order.
        train: Training images.
        test: The reported split.
        val: The tuning split, or None to cut it from ``train``.
    """

    class_list: ClassList
    train: Source
    test: Source
    val: Source | None = None


def image_folder(in_channels: int, *, root: str) -> Dataset:
    """``root/{train,val[,test]}/<class>/<image>``.

    ``test/`` is the reported split where there is one, and ``val/`` then the tuning split; otherwise ``val/`` is
    reported. The classes are the lines of ``root/classes.txt``, or else the folders of ``train/``, sorted.

    Raises:
        UserError: A folder is missing or empty, or the splits' classes differ.
    """
    top = Path(root)
    if not top.is_dir():
        raise UserError(f"data.root={root}: no such folder; expected train/<class>/ and val/<class>/ in it")
    listed = top / "classes.txt"
    class_list = ClassList.read(listed) if listed.is_file() else ClassList(tuple(class_folders(top / "train")))

    def source(split: str) -> FolderSource:
        return FolderSource(top / split, class_list, in_channels)

    if (top / "test").is_dir():
        val = source("val") if (top / "val").is_dir() else None
        return Dataset(class_list, train=source("train"), val=val, test=source("test"))
    return Dataset(class_list, train=source("train"), test=source("val"))


def fashion_mnist_sample(in_channels: int) -> Dataset:
    """5,000 + 1,000 images of Fashion-MNIST, embedded in this package (MIT licence, Zalando SE)."""
    folder = Path(__file__).parent / "fashion_mnist_sample"
    return Dataset(
        ClassList.read(folder / "classes.txt"),
        train=ShardSource(sorted(folder.glob("train-*.tar")), in_channels),
        test=ShardSource(sorted(folder.glob("test-*.tar")), in_channels),
    )


def torchvision_arrays(
    in_channels: int, *, dataset: Literal["CIFAR10", "FashionMNIST"], root: str, download: bool
) -> Dataset:
    """A data set that torchvision keeps in memory: CIFAR-10, Fashion-MNIST.

    Raises:
        UserError: It is not under ``root`` and cannot be downloaded.
    """
    constructor = getattr(torchvision.datasets, dataset)
    with _fetching(dataset, root, download):
        train, test = (constructor(root, train=is_train, download=download) for is_train in (True, False))

    def source(split: Any, name: str) -> ArraySource:
        images = split.data if hasattr(split.data, "__array_interface__") else split.data.numpy()
        return ArraySource(images, list(map(int, split.targets)), f"{dataset}/{name}")

    return Dataset(ClassList(tuple(train.classes)), source(train, "train"), source(test, "test"))


def imagenette(in_channels: int, *, root: str, download: bool) -> Dataset:
    """Imagenette, ten classes of ImageNet with the short side at 320 pixels, through torchvision.

    Raises:
        UserError: It is not under ``root`` and cannot be downloaded.
    """
    from torchvision.datasets import Imagenette

    folder = Path(root) / "imagenette2-320"
    with _fetching("Imagenette", root, download):
        Imagenette(root, split="train", size="320px", download=download and not folder.is_dir())
    return image_folder(in_channels, root=str(folder))


@contextmanager
def _fetching(name: str, root: str, download: bool) -> Iterator[None]:
    """Where a download may happen: one process at a time, for all ranks of a run want it at once."""
    try:
        if not download:
            yield
            return
        Path(root).mkdir(parents=True, exist_ok=True)
        with (Path(root) / ".download.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except (RuntimeError, OSError) as error:
        hint = "it could not be downloaded" if download else "data.dataset.download=true would fetch it"
        raise UserError(f"data.root={root}: no {name} there and {hint} ({' '.join(str(error).split())})") from error
