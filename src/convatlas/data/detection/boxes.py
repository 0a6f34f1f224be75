"""Check the boxes of annotations: leave out boxes without an area, and refuse boxes in other units."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convatlas.errors import UserError
from convatlas.utils.console import warn
from convatlas.utils.distributed import is_rank_zero

Corners = NDArray[np.float64]
"""x0, y0, x1, y1 of each box in pixels, (M, 4)."""

SHARE_LIMIT = 1.01
"""Largest number of a box in shares of its image, with a margin for rounding."""
MISFITS = 0.1
"""Minimum share of boxes that do not fit their image before another format is considered."""
FITS = 0.99
"""Minimum share of boxes that must fit their image in the other format."""
MIN_BOXES = 10
"""Minimum number of boxes from which the other format can be inferred. Fewer boxes may fit by chance."""


@dataclass(frozen=True)
class BoxFormat:
    """The four numbers of a box in an annotation format.

    Attributes:
        meaning: The meaning of the numbers, for messages.
        mistaken_for: Numbers that other tools write in their place, for messages.
    """

    meaning: str
    mistaken_for: str


COCO_BOX = BoxFormat("x, y, width and height", "corners (x0, y0, x1, y1)")
VOC_BOX = BoxFormat("xmin, ymin, xmax and ymax", "x, y, width and height")


def boxes_inside(boxes: Corners, sizes: NDArray[np.int64]) -> tuple[Corners, NDArray[np.bool_]]:
    """Clip boxes to their images.

    Args:
        boxes: The boxes. Any numbers are allowed, also NaN.
        sizes: Height and width of the image of each box, (M, 2).

    Returns:
        The clipped boxes, and whether each of them has an area, (M,).
    """
    limits = sizes[:, [1, 0, 1, 0]]
    inside = np.clip(boxes, 0, limits)
    with np.errstate(invalid="ignore"):
        has_area = np.logical_and.reduce([*(inside[:, 2:] > inside[:, :2]).T, *np.isfinite(boxes).T])
    return inside, has_area


def report_left_out(where: str, kept: NDArray[np.bool_], names: Sequence[object]) -> None:
    """Warn in one line of objects that have no area in their image.

    Args:
        where: The name of the annotations in messages.
        kept: Whether each object is kept, (M,).
        names: The name of each object in messages.
    """
    left_out = np.flatnonzero(~kept)
    if len(left_out) and is_rank_zero():
        warn(
            f"{where}: {len(left_out):,} of {len(kept):,} objects have no area inside their image and are left out; "
            f"the first is {names[left_out[0]]}"
        )


def check_boxes(
    numbers: Corners, boxes: Corners, otherwise: Corners, sizes: NDArray[np.int64], where: str, form: BoxFormat
) -> None:
    """Refuse boxes that are clearly in another unit or format. Warn if most boxes are implausible.

    Args:
        numbers: The four numbers of each box in the file, (M, 4).
        boxes: The boxes that the numbers mean in the expected format, not clipped.
        otherwise: The boxes that the numbers would mean in the format with which it may be confused.
        sizes: Height and width of the image of each box, (M, 2).
        where: The name of the annotations in messages.
        form: The expected format.

    Raises:
        UserError: Most boxes are shares of the image, or the numbers fit the images only in the other format.
    """
    finite = np.isfinite(numbers).all(axis=1)
    numbers, boxes, otherwise = numbers[finite], boxes[finite], otherwise[finite]
    limits = sizes[finite][:, ::-1]
    count = len(numbers)
    if not count:
        return
    expected = f"expected {form.meaning} in pixels"

    shares = np.all(np.abs(numbers) <= SHARE_LIMIT, axis=1) & np.any(numbers, axis=1)
    if _most(shares):
        raise UserError(f"{where}: {_of(shares)} boxes look like shares of the image, from 0 to 1; {expected}")

    extents = boxes[:, 2:] - boxes[:, :2]
    beyond = np.any((boxes[:, :2] < -1) | (boxes[:, 2:] > limits + 1), axis=1)
    misfit = beyond | np.any(extents < 0, axis=1)
    fits = (otherwise[:, 2:] > otherwise[:, :2]) & (otherwise[:, :2] >= -1) & (otherwise[:, 2:] <= limits + 1)
    warnings = []
    if misfit.mean() >= MISFITS and fits.all(axis=1).mean() >= FITS:
        message = f"{where}: {_of(misfit)} boxes do not fit their image and look like {form.mistaken_for}; {expected}"
        if count >= MIN_BOXES:
            raise UserError(message)
        warnings.append(message)
    elif _most(beyond):
        warnings.append(
            f"{where}: {_of(beyond)} boxes end beyond their image; {expected}, in images of the size given there"
        )
    tiny = np.any(extents < 1, axis=1) & np.all(extents > 0, axis=1)
    if _most(tiny):
        warnings.append(f"{where}: {_of(tiny)} boxes are under a pixel wide or high; {expected}")
    if is_rank_zero():
        for message in warnings:
            warn(message)


def _most(chosen: NDArray[np.bool_]) -> bool:
    return bool(chosen.mean() > 0.5)


def _of(chosen: NDArray[np.bool_]) -> str:
    return f"{int(chosen.sum()):,} of {len(chosen):,}"
