"""Checks of boxes as annotations give them: those without an area are left out, other units are refused."""

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
"""Largest number of a box that is given in shares of its image, with room for rounding."""
MISFITS = 0.1
"""Share of boxes that have to be impossible before another reading of the numbers is considered."""
FITS = 0.99
"""Share of boxes that have to fit their images in the other reading."""
MIN_BOXES = 10
"""Boxes from which on the other reading is certain: fewer may fit by chance."""


@dataclass(frozen=True)
class BoxFormat:
    """The four numbers of a box in an annotation format.

    Attributes:
        meaning: What they are, for messages.
        mistaken_for: What other tools write in their place, for messages.
    """

    meaning: str
    mistaken_for: str


COCO_BOX = BoxFormat("x, y, width and height", "corners (x0, y0, x1, y1)")
VOC_BOX = BoxFormat("xmin, ymin, xmax and ymax", "x, y, width and height")


def boxes_inside(boxes: Corners, sizes: NDArray[np.int64]) -> tuple[Corners, NDArray[np.bool_]]:
    """Cut boxes off at the borders of their images.

    Args:
        boxes: The boxes; the numbers may be anything.
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
        warn(
            f"{where}: {len(left_out):,} of {len(kept):,} objects have no area inside their image and are left out; "
            f"the first is {names[left_out[0]]}"
        )


def check_boxes(
    numbers: Corners, boxes: Corners, otherwise: Corners, sizes: NDArray[np.int64], where: str, form: BoxFormat
) -> None:
    """Refuse boxes that are certainly in another unit or format; warn where most of them are hardly possible.

    Args:
        numbers: The four numbers of each box as they are written, (M, 4).
        boxes: The boxes that they are, not yet cut off at the borders.
        otherwise: The boxes that they would be in the form that they may be mistaken for.
        sizes: Height and width of the image of each, (M, 2).
        where: The annotations, as they are called in messages.
        form: What the numbers are.

    Raises:
        UserError: Most boxes are shares of the image, or the numbers fit the images in the other form alone.
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
