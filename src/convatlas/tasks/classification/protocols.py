"""The papers' test protocols, as seen by one image: the views of it that a network is shown.

Views are callables of an image (C, H, W) uint8 that return stacks, each (V, C, h, w): the views of one size. ``crops``
says how many crops of the network's size an image amounts to, so that batches can be kept small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from convatlas.data.transforms.image import center_crop
from convatlas.errors import UserError

Stacks = list[Tensor]


@dataclass(frozen=True, kw_only=True)
class TenCrop:
    """Corners and centre of the central square, and their mirror images (Krizhevsky et al. 2012, section 4.1).

    The paper first reduces every image to its central square (section 2); common implementations take the corners
    of the whole image.

    Args:
        size: Side of a crop in pixels: the paper's 224.
        resize: Short side of the image, and side of the square: the paper's 256.

    Raises:
        UserError: The square is not larger than a crop.
    """

    size: int
    resize: int | None

    def __post_init__(self) -> None:
        if self.resize is None or self.resize <= self.size:
            raise UserError(f"data.resize={self.resize}: ten crops of {self.size} pixels need a larger square")

    @property
    def crops(self) -> int:
        """Ten."""
        return 10

    def __call__(self, image: Tensor) -> Stacks:
        """Map (C, H, W) to one stack (10, C, size, size)."""
        square = center_crop(image, self.resize or self.size, self.resize)
        return [_mirrored(_corners_and_centre(square, self.size))]


@dataclass(frozen=True, kw_only=True)
class Dense:
    """The whole image at several scales, and its mirror image, for a fully convolutional network.

    VGG, section 3.2: one scale, or {256, 384, 512} (section 4.2). ResNet, section 3.4: {224, 256, 384, 480, 640}.

    Args:
        size: Side of the images that the network classifies, in pixels.
        sizes: Short sides of the image, none under ``size``.

    Raises:
        UserError: No scale, or one under ``size``.
    """

    size: int
    sizes: list[int]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < self.size:
            raise UserError(
                f"protocol.views.sizes={list(self.sizes)}: expected short sides of at least data.image_size={self.size}"
            )

    @property
    def crops(self) -> int:
        """As many as the area of all views, for an image of 4:3."""
        return round(sum(2 * 4 / 3 * (size / self.size) ** 2 for size in self.sizes))

    def __call__(self, image: Tensor) -> Stacks:
        """Map (C, H, W) to a stack (2, C, h, w) for each scale."""
        return [_mirrored([TF.resize(image, [size], antialias=True)]) for size in self.sizes]


@dataclass(frozen=True, kw_only=True)
class SquareCrops:
    """144 crops: 4 scales x 3 squares x 6 views x 2 mirror images (Szegedy et al. 2015, section 7).

    The squares are left, centre and right of the image, or top, centre and bottom of an upright one; the views are
    the square's corners and centre, and the whole square resized.

    Args:
        size: Side of a crop in pixels: the paper's 224.
        sizes: Short sides of the image: the paper's 256, 288, 320 and 352.

    Raises:
        UserError: No scale, or one that is not larger than ``size``.
    """

    size: int
    sizes: list[int]

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) <= self.size:
            raise UserError(
                f"protocol.views.sizes={list(self.sizes)}: expected short sides above data.image_size={self.size}"
            )

    @property
    def crops(self) -> int:
        """36 for each scale."""
        return 36 * len(self.sizes)

    def __call__(self, image: Tensor) -> Stacks:
        """Map (C, H, W) to one stack (36 len(sizes), C, size, size)."""
        views = []
        for side in self.sizes:
            resized = TF.resize(image, [side], antialias=True)
            long_dim = -1 if resized.shape[-1] >= resized.shape[-2] else -2
            spare = resized.shape[long_dim] - side
            for start in (0, spare // 2, spare):
                square = resized.narrow(long_dim, start, side)
                whole = TF.resize(square, [self.size, self.size], antialias=True)
                views += [*_corners_and_centre(square, self.size), whole]
        return [_mirrored(views)]


def _corners_and_centre(square: Tensor, size: int) -> list[Tensor]:
    end = square.shape[-1] - size
    starts = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    return [square[:, top : top + size, left : left + size] for top, left in starts]


def _mirrored(views: list[Tensor]) -> Tensor:
    stack = torch.stack(views)
    return torch.cat([stack, stack.flip(-1)])
