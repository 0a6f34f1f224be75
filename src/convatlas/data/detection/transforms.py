"""Joint transforms of an image and its objects.

All random numbers come from the generator of the sample. Images are resized bilinearly, masks by the nearest pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from convatlas.data.transforms.image import Step
from convatlas.errors import UserError

MIN_SIDE = 0.1
"""Minimum side of an object in pixels. Smaller objects are removed."""


@dataclass(frozen=True)
class DetectionSample:
    """An image and its objects in the input of the network.

    Attributes:
        image: The image, (C, H, W) uint8.
        boxes: x0, y0, x1, y1 in pixels, (n, 4) float32.
        labels: Classes from 0, (n,) int64.
        masks: Masks of 0 and 1, (n, H, W) uint8; None without masks.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[-2], self.image.shape[-1]

    def resized(self, height: int, width: int) -> "DetectionSample":
        """Resize the image and its objects."""
        if (height, width) == self.size:
            return self
        factors = torch.tensor([width / self.size[1], height / self.size[0]] * 2)
        return DetectionSample(
            image=TF.resize(self.image, [height, width], antialias=True),
            boxes=self.boxes * factors,
            labels=self.labels,
            masks=None if self.masks is None else _nearest(self.masks, height, width),
        )

    def window(self, top: int, left: int, height: int, width: int) -> "DetectionSample":
        """Cut a window, padded with zeros outside the image, and clip the objects to it."""
        around = [-left, left + width - self.size[1], -top, top + height - self.size[0]]
        limits = torch.tensor([width, height, width, height])
        boxes = (self.boxes - torch.tensor([left, top, left, top])).clamp(min=0).minimum(limits)
        cut = DetectionSample(
            image=F.pad(self.image, around),
            boxes=boxes,
            labels=self.labels,
            masks=None if self.masks is None else F.pad(self.masks, around),
        )
        return cut.visible()

    def visible(self) -> "DetectionSample":
        """Keep only the objects that have a visible part."""
        kept = ((self.boxes[:, 2:] - self.boxes[:, :2]) >= MIN_SIDE).all(dim=1)
        if self.masks is not None:
            kept &= self.masks.flatten(1).ne(0).any(dim=1)
        if kept.all():
            return self
        masks = None if self.masks is None else self.masks[kept]
        return replace(self, boxes=self.boxes[kept], labels=self.labels[kept], masks=masks)


class ObjectStep(Protocol):
    """Changes an image and its objects."""

    def __call__(self, shown: DetectionSample, generator: np.random.Generator) -> DetectionSample:
        """Return the changed image and objects."""


@dataclass(frozen=True, kw_only=True)
class ObjectAugmentation:
    """Augmentation of an image and its objects.

    Args:
        resize: Resizes both to the size of the network's input; None: as in an evaluation, which the data module sets.
        joint: Transforms of both after that, in order.
        steps: Transforms of only the image at the end, in order.
    """

    resize: ObjectStep | None = None
    joint: Mapping[str, ObjectStep] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)

    def __call__(self, shown: DetectionSample, generator: np.random.Generator) -> DetectionSample:
        """Change an image and its objects; objects without a visible part are removed."""
        for joint in (*([] if self.resize is None else [self.resize]), *self.joint.values()):
            shown = joint(shown, generator)
        image = shown.image
        for step in self.steps.values():
            image = step(image, generator)
        return replace(shown, image=image).visible()


@dataclass(frozen=True, kw_only=True)
class ResizeShortSide:
    """Resizes the short side to a number of pixels, or to fewer if the long side would become too long.

    Faster R-CNN (section 3.3): 600 and 1000; FPN (section 5) and Mask R-CNN: 800 and 1333.

    Args:
        short_sides: Lengths of the short side in pixels, of which one is drawn. Several give multi-scale training.
        long_side: Maximum length of the long side in pixels.

    Raises:
        UserError: ``short_sides`` is empty.
    """

    short_sides: Sequence[PositiveInt]
    long_side: PositiveInt

    def __post_init__(self) -> None:
        if not self.short_sides:
            raise UserError("augment.resize.short_sides=[]: expected at least one number of pixels")

    def __call__(self, shown: DetectionSample, generator: np.random.Generator) -> DetectionSample:
        """Resize an image and its objects."""
        drawn = self.short_sides[int(generator.integers(len(self.short_sides)))]
        return shown.resized(*scaled_size(shown.size, drawn, self.long_side))


@dataclass(frozen=True, kw_only=True)
class ScaleJitter:
    """Resizes by a random factor and cuts a random window (Ghiasi et al. 2021, section 3: 0.1 to 2, 1024 pixels).

    Args:
        scale: Range of the factor. With 1, the long side of the image becomes that of the window.
        size: Height and width of the window in pixels.

    Raises:
        UserError: The range is not positive or not ascending.
    """

    scale: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    size: PositiveInt = 1024

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(
                f"augment.resize.scale=[{self.scale[0]},{self.scale[1]}]: expected two numbers above 0 that do not fall"
            )

    def __call__(self, shown: DetectionSample, generator: np.random.Generator) -> DetectionSample:
        """Resize, and cut or pad."""
        factor = float(generator.uniform(*self.scale)) * self.size / max(shown.size)
        resized = shown.resized(*(max(1, round(side * factor)) for side in shown.size))
        top, left = (int(generator.integers(max(0, side - self.size) + 1)) for side in resized.size)
        return resized.window(top, left, *(min(self.size, side) for side in resized.size))


@dataclass(frozen=True, kw_only=True)
class ObjectFlip:
    """Mirrors left and right.

    Args:
        p: Probability.

    Raises:
        UserError: ``p`` is not between 0 and 1.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise UserError(f"augment.joint.flip.p={self.p}: expected a probability from 0 to 1")

    def __call__(self, shown: DetectionSample, generator: np.random.Generator) -> DetectionSample:
        """Flip an image and its objects with probability ``p``."""
        if generator.random() >= self.p:
            return shown
        x0, y0, x1, y1 = shown.boxes.unbind(1)
        width = shown.size[1]
        return replace(
            shown,
            image=shown.image.flip(-1),
            boxes=torch.stack([width - x1, y0, width - x0, y1], dim=1),
            masks=None if shown.masks is None else shown.masks.flip(-1),
        )


def scaled_size(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """Scale height and width up to the first limit: ``short_side`` of the short side, ``long_side`` of the long one."""
    factor = min(short_side / min(size), long_side / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def _nearest(masks: Tensor, height: int, width: int) -> Tensor:
    if not len(masks):
        return masks.new_zeros(0, height, width)
    resized: Tensor = TF.resize(masks, [height, width], interpolation=TF.InterpolationMode.NEAREST_EXACT)
    return resized
