"""The objects of an image: boxes, classes and masks, and what is done about those that cannot be right."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.image_data import ImageSource
from convatlas.rank import is_rank_zero

RunLengths = dict[str, Any]
"""A mask as COCO's compressed run lengths: ``size`` (height and width) and ``counts`` (bytes)."""


@dataclass(frozen=True)
class Objects:
    """What is in a stored image.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels, inside the image and not empty, (n, 4) float32.
        labels: Classes from 0, (n,) int64.
        crowd: Which are not single objects (COCO's crowds, VOC's difficult ones): no training, and no error to find or
            to miss, (n,) bool.
        areas: In pixels; those of masks where there are some, (n,) float64.
        masks: A mask each, or None where there are none.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    masks: Sequence[RunLengths] | None = None


class ObjectSource(ImageSource, Protocol):
    """Images with objects that can be read in any order, by several threads at once."""

    sizes: NDArray[np.int64]
    """Height and width of each stored image, (N, 2)."""
    has_masks: bool
    """Whether objects have masks."""

    def objects(self, index: int) -> Objects:
        """What is in one image."""


def boxes_inside(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cut boxes off at the borders of their images.

    Args:
        boxes: x0, y0, x1, y1 in pixels, (M, 4); they may be anything.
        sizes: Height and width of the image of each, (M, 2).

    Returns:
        The boxes, and which of them have an area, (M,).
    """
    limits = sizes[:, [1, 0, 1, 0]]
    inside = np.clip(boxes, 0, limits)
    with np.errstate(invalid="ignore"):
        has_area = np.logical_and.reduce([*(inside[:, 2:] > inside[:, :2]).T, *np.isfinite(boxes).T])
    return inside, has_area


def report_left_out(where: str, kept: NDArray[np.bool_], names: Sequence[object]) -> None:
    """Say in one line how many objects have no area in their image.

    Args:
        where: The annotations, as they are called in messages.
        kept: Which objects stay, (M,).
        names: What each is called there.
    """
    left_out = np.flatnonzero(~kept)
    if len(left_out) and is_rank_zero():
        sys.stderr.write(
            f"convatlas: warning: {where}: {len(left_out):,} of {len(kept):,} objects have no area inside their image "
            f"and are left out; the first is {names[left_out[0]]}\n"
        )


def encode_masks(masks: NDArray[np.bool_] | NDArray[np.uint8]) -> list[RunLengths]:
    """Masks (n, H, W) of 0 and 1 as run lengths."""
    encoded: list[RunLengths] = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return encoded


def decode_masks(masks: Sequence[RunLengths], size: tuple[int, int]) -> Tensor:
    """Run lengths as masks (n, H, W) uint8 of 0 and 1, all of one height and width."""
    if not masks:
        return torch.zeros(0, *size, dtype=torch.uint8)
    return torch.from_numpy(np.ascontiguousarray(coco_mask.decode(list(masks)).transpose(2, 0, 1)))
