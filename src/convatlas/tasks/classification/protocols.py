"""The views of an image in the test protocols of the papers.

The classes map an image (C, H, W) uint8 to stacks (V, C, h, w). Each stack contains the views of one size. ``crops`` is
the number of crops of the network's size that cost as much as one image; it limits the size of batches.
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

    The paper first reduces every image to its central square (section 2). Common implementations take the corners of
    the whole image instead.

    Args:
        size: Side of a crop in pixels; 224 in the paper.
        resize: Short side of the resized image, which is the side of the square, in pixels; 256 in the paper.

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
        """The number of crops, ten."""
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
        size: Side of the images for which the network is made, in pixels.
        sizes: Short sides to which the image is resized, in pixels.

    Raises:
        UserError: ``sizes`` is empty, or has a value below ``size``.
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
        """The area of all views in crops of ``size`` pixels a side, for an image with the aspect ratio 4:3."""
        return round(sum(2 * 4 / 3 * (size / self.size) ** 2 for size in self.sizes))

    def __call__(self, image: Tensor) -> Stacks:
        """Map (C, H, W) to a stack (2, C, h, w) for each scale."""
        return [_mirrored([TF.resize(image, [size], antialias=True)]) for size in self.sizes]


@dataclass(frozen=True, kw_only=True)
class SquareCrops:
    """144 crops: 4 scales x 3 squares x 6 views x 2 mirror images (Szegedy et al. 2015, section 7).

    The squares are the left, central and right part of a landscape image, or the top, central and bottom part of an
    upright one. The six views are the corners and the centre of the square, and the whole square resized.

    Args:
        size: Side of a crop in pixels; 224 in the paper.
        sizes: Short sides to which the image is resized, in pixels; 256, 288, 320 and 352 in the paper.

    Raises:
        UserError: ``sizes`` is empty, or has a value that is not above ``size``.
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
        """The number of crops, 36 for each scale."""
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
