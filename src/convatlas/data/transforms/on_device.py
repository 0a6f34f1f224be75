"""Augmentation of a normalised batch on its device.

The loader draws all random numbers on the CPU from the generator of the sample. The device applies them to all samples
at once and never waits for the host. Therefore a batch is the same on every device, and a sample is the same in every
batch, if it has the same partner in ``Mix``.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.normalization import check_std
from convatlas.errors import UserError

Draws = NDArray[np.float32]

EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
"""Eigenvectors of the covariance of ImageNet's RGB values in [0, 1], as columns.

Source: fb.resnet.torch, because the paper of AlexNet gives no values.
"""


class BatchStep(Protocol):
    """Changes a batch of images."""

    @property
    def width(self) -> int:
        """Number of random parameters of a sample."""

    def draw(self, generator: np.random.Generator, size: int) -> Draws:
        """Draw the random parameters of one image of ``size`` × ``size`` pixels: (width,) float32."""

    def __call__(self, images: Tensor, random_parameters: Tensor) -> Tensor:
        """Change normalised images (N, C, H, W) float with their random parameters (N, width)."""


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """Adds colour noise along the principal components of ImageNet's pixels (Krizhevsky et al. 2012, section 4.1).

    Args:
        std: The standard deviations by which the images were divided.
        alpha_std: Standard deviation of the noise, in units of a component's eigenvalue.

    Raises:
        UserError: The images are not RGB, or a standard deviation is not that of pixels in [0, 1].
    """

    width: ClassVar[int] = 3

    std: tuple[float, ...]
    alpha_std: float = 0.1

    def __post_init__(self) -> None:
        if len(self.std) != 3:
            raise UserError(
                f"augment.batch.lighting: the components are those of RGB, expected 3 channels, not {len(self.std)}; "
                "~augment.batch.lighting leaves it out"
            )

        check_std("augment.batch.lighting.std (data.std, unless you say otherwise)", self.std)

    def draw(self, generator: np.random.Generator, size: int) -> Draws:
        """Draw the offsets of the normalised channels: (3,)."""
        alpha = generator.normal(0.0, self.alpha_std, 3)
        offsets: Draws = (EIGENVECTORS @ (alpha * EIGENVALUES) / self.std).astype(np.float32)
        return offsets

    def __call__(self, images: Tensor, random_parameters: Tensor) -> Tensor:
        """Shift the colours of images (N, 3, H, W)."""
        return images + random_parameters[:, :, None, None]


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """Sets a rectangle to 0, the mean colour (Zhong et al. 2020, algorithm 1).

    Args:
        p: Probability.
        scale: Range of the rectangle's share of the image's area.
        ratio: Range of its height divided by its width, drawn on a logarithmic scale as torchvision does.

    Raises:
        UserError: A number is outside its range.
    """

    width: ClassVar[int] = 4

    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __post_init__(self) -> None:
        if not (0 <= self.p <= 1 and 0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise UserError(f"augment.batch: {self}: expected p and shares from 0 to 1, and ranges that rise above 0")

    def draw(self, generator: np.random.Generator, size: int) -> Draws:
        """Draw top, left, height and width of the rectangle in pixels: (4,). Zeros mean no rectangle."""
        box = np.zeros(4, dtype=np.float32)
        if generator.random() < self.p:
            for _ in range(10):
                area = size * size * generator.uniform(*self.scale)
                ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
                height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if height < size and width < size:
                    top, left = generator.integers(size - height + 1), generator.integers(size - width + 1)
                    box[:] = top, left, height, width
                    break
        return box

    def __call__(self, images: Tensor, random_parameters: Tensor) -> Tensor:
        """Erase the rectangles of images (N, C, H, W)."""
        return torch.where(_inside(random_parameters, images), 0.0, images)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Mixes pairs of images by mixup (Zhang et al. 2018) or cutmix (Yun et al. 2019).

    The samples 2k and 2k + 1 of a batch are partners. The random parameters of the first sample apply to both. With
    ``switch_probability`` 0 all pairs are mixed by mixup, with 1 all by cutmix.

    Args:
        mixup_alpha: Both parameters of the beta distribution of mixup's weight (section 2 of its paper).
        cutmix_alpha: Both parameters of the beta distribution of the area that cutmix keeps (section 3.1 of its paper).
        switch_probability: Probability that a pair is mixed by cutmix and not by mixup.
        p: Probability that a pair is mixed.

    Raises:
        UserError: A parameter is outside its range.
    """

    width: ClassVar[int] = 5

    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0
    switch_probability: float = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        alphas, probabilities = (self.mixup_alpha, self.cutmix_alpha), (self.switch_probability, self.p)
        if min(alphas) <= 0 or min(probabilities) < 0 or max(probabilities) > 1:
            raise UserError(f"augment.mix: {self}: expected both alphas above 0 and probabilities from 0 to 1")

    def draw(self, generator: np.random.Generator, size: int) -> Draws:
        """Draw the random parameters of a pair: (5,).

        They are the weight of a sample's own image, and top, left, height and width in pixels of the box that comes
        from the partner. The box is empty for mixup. The weight is 1 for cutmix.
        """
        weight, top, left, height, width = 1.0, 0, 0, 0, 0
        if generator.random() < self.p:
            if generator.random() < self.switch_probability:
                kept = generator.beta(self.cutmix_alpha, self.cutmix_alpha)
                (top, bottom), (left, right) = (_cut(generator, size, math.sqrt(1 - kept)) for _ in range(2))
                height, width = bottom - top, right - left
            else:
                weight = generator.beta(self.mixup_alpha, self.mixup_alpha)
        return np.array([weight, top, left, height, width], dtype=np.float32)

    def __call__(self, images: Tensor, random_parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the pairs of a batch.

        Args:
            images: The images, (N, C, H, W) float, N even.
            random_parameters: The random parameters, (N, 5). The rows 2k are used.

        Returns:
            The mixed images, (N, C, H, W), and the weight of each image's own label, (N,) float32. The weight is the
            share of the image in the mixture; the label of the partner has the remaining weight.

        Raises:
            UserError: N is odd.
        """
        count, _, height, width = images.shape
        if count % 2:
            raise UserError(
                f"data.global_batch_size: a part of {count} images reaches augment.mix, which mixes pairs; "
                "expected an even number of images on each rank and in each accumulation part"
            )
        random_parameters = random_parameters[0::2].repeat_interleave(2, dim=0)
        weight, box = random_parameters[:, 0], random_parameters[:, 1:]
        weights = torch.where(_inside(box, images), 0.0, weight[:, None, None, None])
        mixed = torch.lerp(partners(images), images, weights.to(images.dtype))
        return mixed, weight * (1 - box[:, 2] * box[:, 3] / (height * width))


def partners(samples: Tensor) -> Tensor:
    """Return the partner of each sample in ``Mix``: (N, …) with the rows 2k and 2k + 1 exchanged."""
    return samples.view(-1, 2, *samples.shape[1:]).flip(1).view(samples.shape)


def _cut(generator: np.random.Generator, size: int, share: float) -> tuple[int, int]:
    """Draw one side of a box as start and exclusive end: a uniform centre, clipped to the image."""
    centre, half = int(generator.integers(size)), int(size * share) // 2
    return max(0, centre - half), min(size, centre + half)


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Mark the pixels of images (N, C, H, W) in boxes (N, 4) of top, left, height, width: (N, 1, H, W) bool."""
    top, left, height, width = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    in_rows = (rows >= top) & (rows < top + height)
    in_columns = (columns >= left) & (columns < left + width)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
