"""Changes of an image's colours, one image at a time, before it enters a batch."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from convatlas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in a random order.

    The photometric distortions of Howard (2013), with which GoogLeNet was trained (Szegedy et al. 2015, section 6), in
    the form of fb.resnet.torch and torchvision. Saturation and hue leave greyscale images as they are.

    Args:
        brightness: Half-width b of the range [max(0, 1 - b), 1 + b] of the factor.
        contrast: Half-width of the range for contrast, as for brightness.
        saturation: Half-width of the range for saturation, as for brightness.
        hue: Half-width of the range of the shift, in turns of the colour circle; 0.5 is every hue.

    Raises:
        UserError: A negative half-width, or a hue above 0.5.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        if min(self.brightness, self.contrast, self.saturation) < 0 or not 0 <= self.hue <= 0.5:
            raise UserError(f"augment.steps: {self}: expected half-widths from 0, and a hue of at most 0.5")

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Change the colours of an image, (C, H, W) uint8."""
        changes = (
            (TF.adjust_brightness, max(0.0, 1 - self.brightness), 1 + self.brightness),
            (TF.adjust_contrast, max(0.0, 1 - self.contrast), 1 + self.contrast),
            (TF.adjust_saturation, max(0.0, 1 - self.saturation), 1 + self.saturation),
            (TF.adjust_hue, -self.hue, self.hue),
        )
        for position in generator.permutation(len(changes)):
            adjust, low, high = changes[position]
            if low < high:
                image = adjust(image, generator.uniform(low, high))
        return image
