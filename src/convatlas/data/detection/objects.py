"""The objects of an image: boxes, classes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.dataset import Dataset, ImageSource
from convatlas.data.label_counts import Counts

RunLengths = dict[str, Any]
"""A mask as COCO's compressed run lengths: ``size`` (height and width) and ``counts`` (bytes)."""


@dataclass(frozen=True)
class Objects:
    """The objects of a stored image.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, inside the image and not empty, (n, 4) float32.
        labels: Classes from 0, (n,) int64.
        crowd: Whether an object is a crowd (COCO) or difficult (VOC), (n,) bool. Such objects are not used in training,
            and in evaluation it is no error to find or to miss them.
        areas: Area of each object in pixels, (n,) float64; the area of its mask if there are masks.
        masks: The mask of each object, or None without masks.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    masks: Sequence[RunLengths] | None = None


class ObjectSource(ImageSource, Protocol):
    """A source of images with objects, which several threads can read at once in any order."""

    sizes: NDArray[np.int64]
    """Height and width of each stored image, (N, 2)."""
    has_masks: bool
    """Whether objects have masks."""
    where: str
    """The name of the annotations in messages."""

    def objects(self, index: int) -> Objects:
        """Return the objects of one image."""

    def count_objects(self, indices: NDArray[np.int64], num_classes: int) -> Counts | None:
        """Count the objects of each class in some of the images, without crowds; None for generated scenes."""


ObjectDataset = Dataset[ObjectSource]


def count_objects(
    labels: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    starts: NDArray[np.int64],
    indices: NDArray[np.int64],
    num_classes: int,
) -> Counts:
    """Count the objects of each class in some of the images of a source.

    Args:
        labels: Classes of all objects, image by image, (M,).
        crowd: Whether each object is a crowd or difficult, (M,).
        starts: Position of the first object of each image, and the total number of objects, (N + 1,).
        indices: The images to count in.
        num_classes: Number of classes.
    """
    counted = np.zeros(len(starts) - 1, np.bool_)
    counted[indices] = True
    return np.bincount(labels[np.repeat(counted, np.diff(starts)) & ~crowd], minlength=num_classes)


def encode_masks(masks: NDArray[np.bool_] | NDArray[np.uint8]) -> list[RunLengths]:
    """Encode masks (n, H, W) of 0 and 1 as run lengths."""
    encoded: list[RunLengths] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return encoded


def decode_masks(masks: Sequence[RunLengths], size: tuple[int, int]) -> Tensor:
    """Decode run lengths to masks (n, H, W) uint8 of 0 and 1, all of one height and width."""
    if not masks:
        return torch.zeros(0, *size, dtype=torch.uint8)
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(list(masks)).transpose(2, 0, 1)))
