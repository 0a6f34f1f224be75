"""Augmentation by operations drawn from one table: TrivialAugment Wide and RandAugment."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from convatlas.errors import UserError

Interpolation = Literal["nearest", "bilinear"]
Range = tuple[float, float]
LEVELS = 31
"""Number of levels of a range in the papers and torchvision. Level 0 is its start, level 30 its end."""
MAX_MAGNITUDE = 10
"""RandAugment's magnitude at the end of a range, in the units of its authors and of timm."""


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Args:
        change: Changes an image, (C, H, W) uint8, by a magnitude; geometry asks for the interpolation too.
        wide: Magnitudes at the ends of TrivialAugment Wide's range (Müller & Hutter 2021).
        narrow: Magnitudes at the ends of RandAugment's range, which is AutoAugment's (Cubuk et al. 2020).
        signed: Half of the magnitudes are negative.
        side: The dimension in whose lengths ``narrow`` is given; None where it is an absolute number.
    """

    change: Callable[[Tensor, float, InterpolationMode], Tensor]
    wide: Range = (0.0, 0.0)
    narrow: Range = (0.0, 0.0)
    signed: bool = False
    side: int | None = None

    def __call__(
        self, image: Tensor, bounds: Range, level: float, negative: bool, interpolation: Interpolation
    ) -> Tensor:
        """Change an image.

        Args:
            image: (C, H, W) uint8.
            bounds: Magnitudes at the first and at the last level.
            level: From 0 to 30; need not be whole.
            negative: Turn the magnitude's sign around, where it has one.
            interpolation: Interpolation of shear and rotation.

        Returns:
            The image, (C, H, W) uint8.
        """
        # On whole levels exactly torchvision's magnitudes, rounded to float32 as they are: the bits that are dropped
        # decide which grey level is solarised and which pixel is nearest.
        magnitude = float(np.interp(level, np.arange(LEVELS), torch.linspace(*bounds, LEVELS).numpy()))
        magnitude = -magnitude if negative and self.signed else magnitude
        return self.change(image, magnitude, InterpolationMode(interpolation))


def _shear(image: Tensor, x: float, y: float, interpolation: InterpolationMode) -> Tensor:
    # The magnitude is the slope, the kernel asks for the angle; the top left corner stays where it is.
    angles = [math.degrees(math.atan(slope)) for slope in (x, y)]
    sheared: Tensor = TF.affine(image, 0.0, [0, 0], 1.0, angles, interpolation, center=[0, 0])
    return sheared


def _translate(image: Tensor, x: float, y: float) -> Tensor:
    # By whole pixels, so that one kernel that pads and crops has the pixels of torchvision's affine grid in 1/20 of the
    # time; a small image can leave its frame altogether.
    height, width = image.shape[-2:]
    right, down = int(np.clip(x, -width, width)), int(np.clip(y, -height, height))
    return torch.constant_pad_nd(image, [right, -right, down, -down])


OPERATIONS: dict[str, Operation] = {
    "Identity": Operation(lambda image, m, i: image),
    "ShearX": Operation(lambda image, m, i: _shear(image, m, 0.0, i), (0.0, 0.99), (0.0, 0.3), True),
    "ShearY": Operation(lambda image, m, i: _shear(image, 0.0, m, i), (0.0, 0.99), (0.0, 0.3), True),
    "TranslateX": Operation(lambda image, m, i: _translate(image, m, 0.0), (0.0, 32.0), (0.0, 150 / 331), True, -1),
    "TranslateY": Operation(lambda image, m, i: _translate(image, 0.0, m), (0.0, 32.0), (0.0, 150 / 331), True, -2),
    "Rotate": Operation(lambda image, m, i: TF.rotate(image, m, i), (0.0, 135.0), (0.0, 30.0), True),
    "Brightness": Operation(lambda image, m, i: TF.adjust_brightness(image, 1.0 + m), (0.0, 0.99), (0.0, 0.9), True),
    "Color": Operation(lambda image, m, i: TF.adjust_saturation(image, 1.0 + m), (0.0, 0.99), (0.0, 0.9), True),
    "Contrast": Operation(lambda image, m, i: TF.adjust_contrast(image, 1.0 + m), (0.0, 0.99), (0.0, 0.9), True),
    "Sharpness": Operation(lambda image, m, i: TF.adjust_sharpness(image, 1.0 + m), (0.0, 0.99), (0.0, 0.9), True),
    "Posterize": Operation(lambda image, m, i: TF.posterize(image, round(m)), (8.0, 2.0), (8.0, 4.0)),
    "Solarize": Operation(lambda image, m, i: TF.solarize(image, 255 * m), (1.0, 0.0), (1.0, 0.0)),
    "AutoContrast": Operation(lambda image, m, i: TF.autocontrast(image)),
    "Equalize": Operation(lambda image, m, i: TF.equalize(image)),
}
"""The operations and ranges that torchvision has for both papers."""
ROWS = list(OPERATIONS.values())


@dataclass(frozen=True, kw_only=True)
class TrivialAugmentWide:
    """Applies one uniformly drawn operation at one of 31 uniformly drawn levels (Müller & Hutter 2021).

    Args:
        interpolation: Interpolation of shear and rotation.
    """

    interpolation: Interpolation = "nearest"

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Change an image, (C, H, W) uint8."""
        operation = ROWS[generator.integers(len(ROWS))]
        level, negative = int(generator.integers(LEVELS)), bool(generator.integers(2))
        return operation(image, operation.wide, level, negative, self.interpolation)


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Applies several uniformly drawn operations in succession, all with about the same magnitude (Cubuk et al. 2020).

    Args:
        num_ops: Operations drawn for an image, with replacement: the paper's N.
        magnitude: From 0 to 10: the paper's M. (Level k of torchvision's 31 is magnitude k / 3.)
        magnitude_std: Standard deviation of each operation's magnitude, as timm has it; "ResNet strikes back"
            (Wightman et al. 2021) uses 0.5.
        p: Probability that a drawn operation is applied: the paper's 1, timm's 0.5.
        interpolation: Interpolation of shear and rotation.

    Raises:
        UserError: A number outside its range.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    magnitude_std: float = 0.0
    p: float = 1.0
    interpolation: Interpolation = "nearest"

    def __post_init__(self) -> None:
        if (
            self.num_ops < 1
            or not 0 <= self.magnitude <= MAX_MAGNITUDE
            or self.magnitude_std < 0
            or not 0 <= self.p <= 1
        ):
            raise UserError(
                f"augment.steps: {self}: expected num_ops from 1, magnitude from 0 to {MAX_MAGNITUDE}, magnitude_std "
                "from 0, p from 0 to 1"
            )

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Change an image, (C, H, W) uint8."""
        for _ in range(self.num_ops):
            operation = ROWS[generator.integers(len(ROWS))]
            magnitude = float(np.clip(generator.normal(self.magnitude, self.magnitude_std), 0, MAX_MAGNITUDE))
            negative, applied = bool(generator.integers(2)), generator.random() < self.p
            if applied:
                low, high = operation.narrow
                bounds = (low, high if operation.side is None else high * image.shape[operation.side])
                level = magnitude * ((LEVELS - 1) / MAX_MAGNITUDE)
                image = operation(image, bounds, level, negative, self.interpolation)
        return image
