"""Data sets for classification: find the images and classes of each."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torchvision
from hydra.utils import instantiate
from omegaconf import DictConfig

from convatlas.data.class_list import ClassList
from convatlas.data.dataset import SPLITS, Dataset, Split
from convatlas.data.normalization import set_background
from convatlas.data.opening import open_with_root
from convatlas.data.sources.images import (
    ArraySource,
    ClassificationDataset,
    FolderSource,
    LabelledSource,
    class_folders,
    files_outside_classes,
)
from convatlas.data.sources.manifest import Manifest
from convatlas.data.sources.shards import ShardSource
from convatlas.errors import UserError


def open_dataset(data: DictConfig) -> ClassificationDataset:
    """Open the data set of a configuration's ``data``, without the batches."""
    found = open_with_root(instantiate(data.dataset), data.name, data.in_channels, data.get("root"))
    if not (isinstance(found, Dataset) and isinstance(found.train, LabelledSource)):
        raise UserError(f"data={data.name}: expected a data set of labelled images, without masks or boxes")
    background = data.get("background")
    set_background(found.splits.values(), background and list(background), data.in_channels)
    return found


def image_folder(in_channels: int, *, root: str, scan_cache: str | None = "user") -> ClassificationDataset:
    """``root/{train,val[,test]}/<class>/<image>``, or the same as shards: ``root/{train,val[,test]}-*.tar``.

    ``test`` is the reported split where there is one, and ``val`` then the tuning split; otherwise ``val`` is
    reported. The classes are the lines of ``root/classes.txt``, or else the folders of ``train/``, sorted. Which files
    count as images is said at ``ImageScan.images``.

    Args:
        in_channels: 1 for greyscale, 3 for RGB.
        root: The folder.
        scan_cache: Where the lists of files are kept from one start to the next, as ``ImageScan`` has it.

    Raises:
        UserError: A folder or shard is missing, empty, unreadable or damaged, or the splits' classes differ.
    """
    top = Path(root)
    if not top.is_dir():
        raise UserError(f"data.root={root}: no such folder; expected train/<class>/ and val/<class>/ in it")
    if not os.access(top, os.R_OK | os.X_OK):
        raise UserError(f"data.root={root}: cannot be read (no permission)")
    shards = {split: sorted(top.glob(f"{split}-*.tar")) for split in SPLITS}
    manifest = Manifest.read(top)
    sharded = manifest is not None or any(shards.values())
    folders = [split for split in SPLITS if (top / split).is_dir()]
    if sharded and folders:
        raise UserError(f"data.root={root}: holds shards and a folder {folders[0]}/; expected one of the two")
    if manifest is not None:
        manifest.check_shards(top, chain(*shards.values()))
    listed = top / "classes.txt"
    if sharded and not listed.is_file():
        raise UserError(f"{listed}: missing; expected the class names of the shards, one a line")
    class_list = ClassList.read(listed) if listed.is_file() else ClassList(tuple(class_folders(top / "train")))

    passed_over: Counter[str] = Counter()

    def source(split: Split) -> LabelledSource:
        if not sharded:
            images = FolderSource(top / split, class_list, in_channels, scan_cache)
            passed_over.update(images.passed_over + files_outside_classes(top / split))
            return images
        if not shards[split]:
            raise UserError(f"data.root={root}: no {split}-*.tar there; expected the shards of train and val or test")
        found = ShardSource(shards[split], in_channels)
        if found.labels.max(initial=0) >= len(class_list.names):
            raise UserError(f"{listed}: {len(class_list.names)} classes, fewer than the {split} shards have")
        return found

    present = [split for split in SPLITS if shards[split]] if sharded else folders
    if "test" in present:
        val = source("val") if "val" in present else None
        return ClassificationDataset(
            class_list, train=source("train"), val=val, test=source("test"), passed_over=passed_over
        )
    return ClassificationDataset(class_list, train=source("train"), test=source("val"), passed_over=passed_over)


def fashion_mnist_sample(in_channels: int) -> ClassificationDataset:
    """5,000 + 1,000 images of Fashion-MNIST, embedded in this package (MIT licence, Zalando SE)."""
    folder = Path(__file__).parent / "fashion_mnist_sample"
    return ClassificationDataset(
        ClassList.read(folder / "classes.txt"),
        train=ShardSource(sorted(folder.glob("train-*.tar")), in_channels),
        test=ShardSource(sorted(folder.glob("test-*.tar")), in_channels),
    )


def torchvision_arrays(
    in_channels: int, *, dataset: Literal["CIFAR10", "FashionMNIST"], root: str, download: bool
) -> ClassificationDataset:
    """A data set that torchvision keeps in memory: CIFAR-10, Fashion-MNIST.

    Raises:
        UserError: It is not under ``root`` and cannot be downloaded.
    """
    constructor = getattr(torchvision.datasets, dataset)
    with fetching(dataset, root, download):
        train, test = (constructor(root, train=is_train, download=download) for is_train in (True, False))

    def source(split: Any, name: str) -> ArraySource:
        images = split.data if hasattr(split.data, "__array_interface__") else split.data.numpy()
        return ArraySource(images, list(map(int, split.targets)), f"{dataset}/{name}")

    return ClassificationDataset(ClassList(tuple(train.classes)), source(train, "train"), source(test, "test"))


def imagenette(
    in_channels: int, *, root: str, download: bool, scan_cache: str | None = "user"
) -> ClassificationDataset:
    """Imagenette, ten classes of ImageNet with the short side at 320 pixels, through torchvision.

    Raises:
        UserError: It is not under ``root`` and cannot be downloaded.
    """
    from torchvision.datasets import Imagenette

    folder = Path(root) / "imagenette2-320"
    with fetching("Imagenette", root, download):
        Imagenette(root, split="train", size="320px", download=download and not folder.is_dir())
    return image_folder(in_channels, root=str(folder), scan_cache=scan_cache)


@contextmanager
def fetching(name: str, root: str, download: bool) -> Iterator[None]:
    """Let one process at a time download; all ranks of a run start the download at once."""
    try:
        if not download:
            yield
            return
        Path(root).mkdir(parents=True, exist_ok=True)
        with (Path(root) / ".download.lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except (RuntimeError, OSError) as error:
        hint = "it could not be downloaded" if download else "data.dataset.download=true would fetch it"
        raise UserError(f"data.root={root}: no {name} there and {hint} ({' '.join(str(error).split())})") from error
