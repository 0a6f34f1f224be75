"""Data sets for detection: find the images, annotations and classes of each."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torchvision.datasets import VOCDetection

from convatlas.data.class_list import ClassList
from convatlas.data.classification.datasets import fetching
from convatlas.data.detection.coco import CocoFile, CocoSource
from convatlas.data.detection.objects import ObjectDataset, Objects, encode_masks
from convatlas.data.detection.voc import VocAnnotations, VocSource, read_image_set
from convatlas.data.digests import FileDigests, text_digest
from convatlas.data.images.decode import Background, Picture
from convatlas.data.sources.shapes import CLASSES, scene
from convatlas.errors import UserError


class SceneSource:
    """Scenes of shapes, made at first use and then kept.

    Args:
        seed: Seed of the scenes.
        first: Number of the first scene.
        count: Number of scenes.
        size: Height and width in pixels.
        masks: Whether to load the objects' masks.
    """

    background: Background = None

    def __init__(self, seed: int, first: int, count: int, size: tuple[int, int], *, masks: bool) -> None:
        self.seed, self.first = seed, first
        self.size = size
        self.sizes = np.tile(np.array(size, np.int64), (count, 1))
        self.has_masks = masks
        self.where = "shapes"
        self._made: dict[int, tuple[Tensor, Objects]] = {}

    def __len__(self) -> int:
        return len(self.sizes)

    def open(self, index: int) -> Picture:
        """One image."""
        return Picture.of(self._scene(index)[0], self.path(index))

    def objects(self, index: int) -> Objects:
        """Return the objects of one image."""
        return self._scene(index)[1]

    def count_objects(self, indices: NDArray[np.int64], num_classes: int) -> None:
        """Return None, since scenes have all classes."""

    def path(self, index: int) -> str:
        """The data set and the number of the scene."""
        return f"shapes[{self.first + index}]"

    @property
    def description(self) -> str:
        """The parameters that determine the scenes."""
        return f"shapes {CLASSES} {self.seed} {self.first} {len(self.sizes)} {self.size}"

    def digests(self, files: FileDigests) -> dict[str, str]:
        """The parameters that determine the scenes."""
        return {"scenes": text_digest([self.description])}

    def _scene(self, index: int) -> tuple[Tensor, Objects]:
        if index not in self._made:
            shown = scene(self.seed, self.first + index, self.size)
            objects = Objects(
                boxes=shown.boxes,
                labels=shown.labels,
                crowd=np.zeros(len(shown.labels), np.bool_),
                areas=shown.masks.sum(axis=(1, 2)).astype(np.float64),
                masks=encode_masks(shown.masks) if self.has_masks else None,
            )
            pixels = torch.from_numpy(np.ascontiguousarray(shown.image.transpose(2, 0, 1)))
            self._made[index] = pixels, objects
        return self._made[index]


def shapes(
    in_channels: int,
    *,
    train: PositiveInt,
    test: PositiveInt,
    size: tuple[PositiveInt, PositiveInt],
    masks: bool,
    scenes_seed: NonNegativeInt = 0,
) -> ObjectDataset:
    """Scenes of shapes that need no file.

    Args:
        in_channels: 3; the scenes are in colour.
        train: Number of training scenes.
        test: Number of scenes of the reported split; they are others.
        size: Height and width in pixels.
        masks: Whether to load the objects' masks.
        scenes_seed: Which scenes; not the run's seed.

    Raises:
        UserError: Another number of channels.
    """
    if in_channels != 3:
        raise UserError(f"data.in_channels={in_channels}: the shapes are in colour, expected 3")
    return ObjectDataset(
        ClassList(CLASSES),
        train=SceneSource(scenes_seed, 0, train, size, masks=masks),
        test=SceneSource(scenes_seed, train, test, size, masks=masks),
    )


def coco(
    in_channels: int, *, root: str, masks: bool, train: str = "train2017", test: str = "val2017", val: str | None = None
) -> ObjectDataset:
    """COCO's layout: ``root/<split>/<image>`` and ``root/annotations/instances_<split>.json``.

    The classes are the categories of the training split in the order of their ids.

    Args:
        in_channels: 1 for greyscale, 3 for RGB.
        root: The folder.
        masks: Whether to load the objects' masks.
        train: The training split.
        test: The reported split; of COCO itself ``val2017``, whose annotations are public.
        val: The tuning split; None cuts it from the training split.

    Raises:
        UserError: Annotations are missing or wrong; names the file and the entry.
    """
    top = Path(root)
    if not top.is_dir():
        raise UserError(f"data.root={root}: no such folder; expected annotations/instances_{train}.json and {train}/")
    files = {
        split: CocoFile(top / "annotations" / f"instances_{split}.json")
        for split in (train, test, val)
        if split is not None
    }
    class_list = files[train].class_list
    sources = {
        split: CocoSource(file, top / split, class_list, in_channels, masks=masks) for split, file in files.items()
    }
    return ObjectDataset(class_list, sources[train], sources[test], None if val is None else sources[val])


def voc(
    in_channels: int,
    *,
    root: str,
    masks: bool,
    year: Literal["2007", "2008", "2009", "2010", "2011", "2012"] = "2012",
    train: str = "train",
    test: str = "val",
    download: bool = False,
) -> ObjectDataset:
    """VOC's layout under ``root/VOCdevkit/VOC<year>``, as torchvision's ``VOCDetection`` has it, or in ``root`` itself.

    The classes are the lines of ``classes.txt`` there, or else those of the training images, sorted.

    Args:
        in_channels: 1 for greyscale, 3 for RGB.
        root: The folder.
        masks: Whether to load the objects' masks: the splits are then those of ``ImageSets/Segmentation``.
        year: Year of the challenge.
        train: The training split.
        test: The reported split.
        download: Let torchvision fetch it.

    Raises:
        UserError: It is not there, cannot be fetched, or an annotation is missing or wrong.
    """
    with fetching(f"VOC {year}", root, download):
        top = Path(root) / "VOCdevkit" / f"VOC{year}"
        if download and not top.is_dir():
            VOCDetection(root, year=year, image_set=train, download=True)
    if not top.is_dir():
        top = Path(root)
    if not (top / "Annotations").is_dir():
        raise UserError(
            f"data.root={root}: expected VOCdevkit/VOC{year} there, or Annotations, ImageSets and JPEGImages"
        )
    lists = top / "ImageSets" / ("Segmentation" if masks else "Main")
    found = [VocAnnotations(top, read_image_set(lists / f"{split}.txt")) for split in (train, test)]
    listed = top / "classes.txt"
    class_list = ClassList.read(listed) if listed.is_file() else ClassList(tuple(sorted(set(found[0].classes))))
    if not class_list.names:
        raise UserError(f"data.root={root}: no object in the training images, and no {listed} that names the classes")
    sources = [VocSource(annotations, class_list, in_channels, masks=masks) for annotations in found]
    return ObjectDataset(class_list, train=sources[0], test=sources[1])
