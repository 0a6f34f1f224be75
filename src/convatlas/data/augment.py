"""What is done to one image before it enters a batch.

A step takes an image, (C, H, W) uint8, and the sample's own random generator, and returns an image. Steps draw from
that generator alone, so that an image's augmentation is a function of (seed, epoch, index) on every thread and rank.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

Step = Callable[[Tensor, np.random.Generator], Tensor]


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The evaluation's geometry: short side to ``resize``, then the central square.

    Args:
        size: Side of the square in pixels; a smaller image is padded with zeros around it.
        resize: Short side before the crop, antialiased bilinear; None leaves the image as it is.
    """

    size: int
    resize: int | None = None

    def __call__(self, image: Tensor, generator: np.random.Generator | None = None) -> Tensor:
        """Crop an image, (C, H, W) to (C, size, size)."""
        if self.resize is not None:
            image = TF.resize(image, [self.resize], antialias=True)
        top, left = (_middle(side - self.size) for side in image.shape[-2:])
        return _window(image, top, left, self.size)


@dataclass(frozen=True, kw_only=True)
class PadCrop:
    """Zero padding and a random crop (He et al. 2016, section 4.2: 4 pixels around 32).

    Args:
        size: Side of the crop in pixels.
        padding: Pixels added on each side, besides what a smaller image needs to reach ``size``.
        resize: Short side before the crop; None leaves the image as it is.
    """

    size: int
    padding: int
    resize: int | None = None

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Crop an image, (C, H, W) to (C, size, size)."""
        if self.resize is not None:
            image = TF.resize(image, [self.resize], antialias=True)
        height, width = (max(0, self.size - side) // 2 + self.padding for side in image.shape[-2:])
        top, left = (
            int(generator.integers(max(0, side + 2 * padding - self.size) + 1)) - padding
            for side, padding in zip(image.shape[-2:], (height, width), strict=True)
        )
        return _window(image, top, left, self.size)


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A crop of random area and aspect, resized (Szegedy et al. 2015, section 6: 8 % to 100 %, 3/4 to 4/3).

    Args:
        size: Side of the result in pixels.
        scale: Range of the crop's share of the image's area.
        ratio: Range of its width divided by its height, drawn on a logarithmic scale.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Crop and resize an image, (C, H, W) to (C, size, size)."""
        top, left, height, width = self._box(image.shape[-2], image.shape[-1], generator)
        size = [self.size, self.size]
        resized: Tensor = TF.resized_crop(image, top, left, height, width, size, antialias=True)
        return resized

    def _box(self, image_height: int, image_width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        for _ in range(10):
            area = image_height * image_width * generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= image_width and 0 < height <= image_height:
                top = int(generator.integers(image_height - height + 1))
                left = int(generator.integers(image_width - width + 1))
                return top, left, height, width
        # No draw fits a very long image: the central part of an allowed aspect.
        width = min(image_width, round(image_height * self.ratio[1]))
        height = min(image_height, round(image_width / self.ratio[0]))
        return (image_height - height) // 2, (image_width - width) // 2, height, width


@dataclass(frozen=True, kw_only=True)
class ScaleJitterCrop:
    """Short side drawn from a range, then a random crop (VGG, section 3.1; ResNet, section 3.4: 256 to 480).

    Args:
        size: Side of the crop in pixels.
        min_side: Smallest short side.
        max_side: Largest short side.
    """

    size: int
    min_side: int
    max_side: int

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Resize and crop an image, (C, H, W) to (C, size, size)."""
        side = int(generator.integers(self.min_side, self.max_side + 1))
        return PadCrop(size=self.size, padding=0, resize=side)(image, generator)


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Mirror left and right.

    Args:
        p: Probability.
    """

    p: float = 0.5

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Maybe flip an image, (C, H, W)."""
        return image.flip(-1) if generator.random() < self.p else image


def _middle(spare: int) -> int:
    # As torchvision's center_crop rounds: published evaluations depend on it.
    return round(spare / 2) if spare > 0 else -(-spare // 2)


def _window(image: Tensor, top: int, left: int, size: int) -> Tensor:
    """The square at (top, left), with zeros where it leaves the image: (C, H, W) to (C, size, size)."""
    height, width = image.shape[-2:]
    if (top, left, height, width) == (0, 0, size, size):
        return image
    # One kernel pads and, where the padding is negative, crops.
    return torch.constant_pad_nd(image, [-left, left + size - width, -top, top + size - height])
