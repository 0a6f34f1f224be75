"""Joint transforms of an image and its mask.

All random numbers come from the generator of the sample. Images are resized bilinearly, masks by the nearest pixel.
Pixels outside an image are void (``IGNORE_INDEX``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from convatlas.data.batch import IGNORE_INDEX
from convatlas.data.images.decode import Picture
from convatlas.data.segmentation.border_weights import BorderWeights
from convatlas.data.transforms.image import Step
from convatlas.errors import UserError


class JointCrop(Protocol):
    """Crops a part of a stored image and the same part of its mask."""

    def __call__(
        self, picture: Picture, mask: Tensor, generator: np.random.Generator, size: int
    ) -> tuple[Tensor, Tensor]:
        """Make an image (C, size, size) uint8 and its mask (size, size) uint8."""


class JointStep(Protocol):
    """Changes an image and its mask."""

    def __call__(self, image: Tensor, mask: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Map an image (C, H, W) uint8 and its mask (H, W) uint8 to ones of the same shape."""


@dataclass(frozen=True, kw_only=True)
class JointAugmentation:
    """Augmentation of a training image and its mask.

    Args:
        crop: Crops the image and the mask.
        joint: Transforms of both, in order.
        steps: Transforms of only the image after that, in order.
        weights: Computes the weight of each pixel in the loss; None: all pixels have the same weight.
    """

    crop: JointCrop
    joint: Mapping[str, JointStep] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)
    weights: BorderWeights | None = None

    def show(
        self, picture: Picture, mask: Tensor, generator: np.random.Generator, size: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Make an image (C, size, size) uint8, its mask (size, size) uint8 and weights (size, size) float32."""
        image, mask = self.crop(picture, mask, generator, size)
        for joint in self.joint.values():
            image, mask = joint(image, mask, generator)
        for step in self.steps.values():
            image = step(image, generator)
        return image, mask, None if self.weights is None else self.weights(mask)


@dataclass(frozen=True, kw_only=True)
class ScaleCrop:
    """Resizes by a random factor and takes a random crop (DeepLab v3, section 4.1: 0.5 to 2).

    The part is cut from the stored image and then resized. It shows the same as resizing the whole image first. An
    image smaller than the crop has a random position in it; the image is padded with zeros and the mask with void.

    Args:
        scale: Range of the factor by which the image is resized.

    Raises:
        UserError: The range is not positive or not ascending.
    """

    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(
                f"augment.crop.scale=[{self.scale[0]},{self.scale[1]}]: expected two numbers above 0 that do not fall"
            )

    def __call__(
        self, picture: Picture, mask: Tensor, generator: np.random.Generator, size: int
    ) -> tuple[Tensor, Tensor]:
        """Make an image (C, size, size) and its mask (size, size)."""
        scale = float(generator.uniform(*self.scale))
        wanted = max(1, round(size / scale))
        tops, heights, places, sides = zip(
            *(_along(side, wanted, size, generator) for side in (picture.height, picture.width)), strict=True
        )
        part = picture.region(tops[0], tops[1], heights[0], heights[1], max(sides))
        labels = mask[tops[0] : tops[0] + heights[0], tops[1] : tops[1] + heights[1]]
        if tuple(part.shape[-2:]) != sides:
            part = TF.resize(part, list(sides), antialias=True)
        if tuple(labels.shape) != sides:
            labels = TF.resize(labels[None], list(sides), interpolation=TF.InterpolationMode.NEAREST_EXACT)[0]
        if sides == (size, size):
            return part, labels
        around = [places[1], size - sides[1] - places[1], places[0], size - sides[0] - places[0]]
        return F.pad(part, around), F.pad(labels, around, value=IGNORE_INDEX)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors left and right, and, for data without a fixed orientation, up and down.

    Args:
        horizontal: Probability of mirroring left and right.
        vertical: Probability of mirroring up and down.

    Raises:
        UserError: A probability is not between 0 and 1.
    """

    horizontal: float = 0.5
    vertical: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("horizontal", self.horizontal), ("vertical", self.vertical)):
            if not 0 <= value <= 1:
                raise UserError(f"augment.joint.flip.{name}={value}: expected a probability from 0 to 1")

    def __call__(self, image: Tensor, mask: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mirror both with the given probabilities."""
        right, down = generator.random(2).tolist()
        axes = [axis for axis, drawn, p in ((-1, right, self.horizontal), (-2, down, self.vertical)) if drawn < p]
        return (image.flip(axes), mask.flip(axes)) if axes else (image, mask)


@dataclass(frozen=True, kw_only=True)
class ElasticDeformation:
    """Deforms by smooth random displacements and a rotation (U-Net, section 3.1).

    The displacements are drawn on a coarse grid and interpolated bicubically. Both are mirrored beyond the border.

    Args:
        sigma: Standard deviation of the displacements in pixels; 10 in the paper.
        grid: Number of points of the grid along each side; 3 in the paper.
        rotation: Maximum angle of the rotation in both directions, in degrees.
    """

    sigma: float = 10.0
    grid: int = 3
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if self.sigma < 0 or self.grid < 2 or self.rotation < 0:
            raise UserError(f"augment.joint: {self}: expected sigma and rotation from 0, and a grid from 2")

    def __call__(self, image: Tensor, mask: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Deform both in the same way."""
        height, width = mask.shape
        angle = np.deg2rad(generator.uniform(-self.rotation, self.rotation))
        drawn = torch.from_numpy(generator.normal(0, self.sigma, (1, 2, self.grid, self.grid)).astype(np.float32))
        moved = F.interpolate(drawn, size=(height, width), mode="bicubic", align_corners=True)[0]
        rows = torch.arange(height, dtype=torch.float32)[:, None] - (height - 1) / 2
        columns = torch.arange(width, dtype=torch.float32)[None, :] - (width - 1) / 2
        x = float(np.cos(angle)) * columns - float(np.sin(angle)) * rows + moved[0]
        y = float(np.sin(angle)) * columns + float(np.cos(angle)) * rows + moved[1]
        # Coordinates of grid_sample: -1 and 1 are the outer edges of the outer pixels.
        places = torch.stack([2 * x / width, 2 * y / height], dim=-1)[None]
        pixels = F.grid_sample(image[None].float(), places, "bilinear", "reflection", align_corners=False)[0]
        labels = F.grid_sample(mask[None, None].float(), places, "nearest", "reflection", align_corners=False)[0, 0]
        return pixels.round_().to(torch.uint8), labels.to(torch.uint8)


def _along(side: int, wanted: int, size: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw one side of the crop: start and length of the part in the image, and its start and length in the crop."""
    if side >= wanted:
        return int(generator.integers(side - wanted + 1)), wanted, 0, size
    length = max(1, round(side * size / wanted))
    return 0, side, int(generator.integers(size - length + 1)), length
