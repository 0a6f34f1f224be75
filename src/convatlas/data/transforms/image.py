"""Augmentation of one image: a crop, then steps that change its pixels.

A crop chooses a part of a stored image, decodes only this part, and writes it to a row of the batch. Steps change the
row. Both draw all random numbers from the generator of the sample. Therefore the augmentation of an image is a function
of (seed, epoch, index) on every thread and rank.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from convatlas.data.batch import Batch
from convatlas.data.images.decode import Picture
from convatlas.data.transforms.on_device import BatchStep, Mix, partners
from convatlas.errors import UserError

Box = tuple[int, int, int, int]
"""Top, left, height and width, in pixels of the stored image."""

Step = Callable[[Tensor, np.random.Generator], Tensor]
"""Maps an image, (C, H, W) uint8, to an image of the same shape."""


class Crop(Protocol):
    """Writes a part of a stored image to a row of the batch."""

    def __call__(self, picture: Picture, generator: np.random.Generator, out: Tensor) -> None:
        """Write the crop to ``out``, (C, size, size) uint8."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation of a training image.

    Args:
        crop: Chooses the part of the image.
        steps: Transforms of the cropped image in the loader, in order.
        batch: Transforms of normalised batches on the device, in order.
        mix: Mixes pairs of samples on the device after the other transforms; None: samples are not mixed.
        repeats: Number of copies of each sample in a global batch, each with its own augmentation. The length of the
            epoch does not change (Hoffer et al. 2020, section 3).
        image_size: Height and width in training, in pixels, or a function of the epoch. None: the size of the data.
    """

    crop: Crop
    steps: Mapping[str, Step] = field(default_factory=dict)
    batch: Mapping[str, BatchStep] = field(default_factory=dict)
    mix: Mix | None = None
    repeats: PositiveInt = 1
    image_size: PositiveInt | Callable[[int], int] | None = None

    @property
    def random_parameters(self) -> int:
        """Number of random parameters of each sample that the loader draws for the device."""
        return sum(step.width for step in self._on_device())

    def size(self, epoch: int) -> int | None:
        """Return the height and width of the images in an epoch; None: the size of the data."""
        return self.image_size(epoch) if callable(self.image_size) else self.image_size

    def show(self, picture: Picture, generator: np.random.Generator, out: Tensor) -> None:
        """Write an augmented image to a row of a batch, (C, size, size) uint8."""
        self.crop(picture, generator, out)
        for step in self.steps.values():
            changed = step(out, generator)
            if changed is not out:
                out.copy_(changed)

    def draw(self, generator: np.random.Generator, size: int, out: Tensor) -> None:
        """Draw the random parameters of one sample, (random_parameters,) float32."""
        out.copy_(torch.from_numpy(np.concatenate([step.draw(generator, size) for step in self._on_device()])))

    def on_device(self, batch: Batch) -> Batch:
        """Augment a normalised batch with its random parameters."""
        if batch.random_parameters is None:
            return batch
        random_parameters = torch.split(batch.random_parameters, [step.width for step in self._on_device()], dim=1)
        images = batch.images
        for step, drawn in zip(
            self.batch.values(), random_parameters, strict=False
        ):  # the last parameters belong to ``mix``
            images = step(images, drawn)
        if self.mix is None:
            return batch._replace(images=images)
        images, weights = self.mix(images, random_parameters[-1])
        return batch._replace(images=images, mixed_labels=partners(batch.labels), label_weights=weights)

    def _on_device(self) -> list[BatchStep | Mix]:
        return [*self.batch.values(), *([] if self.mix is None else [self.mix])]


@dataclass(frozen=True, kw_only=True)
class CenterCrop:
    """The crop of evaluations: resizes the short side to ``resize`` and takes the central square.

    Args:
        resize: Short side before the crop, antialiased bilinear; None leaves the image as it is.
    """

    resize: PositiveInt | None = None

    def __call__(self, picture: Picture, generator: np.random.Generator | None, out: Tensor) -> None:
        """Write the central square to ``out``, (C, size, size). A smaller image is padded with zeros."""
        out.copy_(center_crop(picture.pixels(), out.shape[-1], self.resize))


@dataclass(frozen=True, kw_only=True)
class PadCrop:
    """Zero padding and a random crop (He et al. 2016, section 4.2: 4 pixels around 32).

    Args:
        padding: Pixels of padding on each side. An image smaller than the crop is first padded to the crop's size.
        resize: Short side before the crop; None leaves the image as it is.
    """

    padding: NonNegativeInt
    resize: PositiveInt | None = None

    def __call__(self, picture: Picture, generator: np.random.Generator, out: Tensor) -> None:
        """Fill ``out``, (C, size, size)."""
        size = out.shape[-1]
        image = _resized(picture.pixels(), self.resize)
        margins = (max(0, size - side) // 2 + self.padding for side in image.shape[-2:])
        top, left = (
            int(generator.integers(max(0, side + 2 * margin - size) + 1)) - margin
            for side, margin in zip(image.shape[-2:], margins, strict=True)
        )
        out.copy_(_window(image, top, left, size))


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """A crop of random area and aspect, resized (Szegedy et al. 2015, section 6: 8 % to 100 %, 3/4 to 4/3).

    Args:
        scale: Range of the crop's share of the image's area.
        ratio: Range of its width divided by its height, drawn on a logarithmic scale.

    Raises:
        UserError: A range is not positive or not ascending.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if not 0 < low <= high:
                raise UserError(f"augment.crop.{name}=[{low},{high}]: expected two numbers above 0 that do not fall")

    def __call__(self, picture: Picture, generator: np.random.Generator, out: Tensor) -> None:
        """Fill ``out``, (C, size, size)."""
        _fill(out, picture, self.box(picture.height, picture.width, generator))

    def box(self, image_height: int, image_width: int, generator: np.random.Generator) -> Box:
        """Draw the part of an image to crop."""
        low, high = map(math.log, self.ratio)
        for _ in range(10):
            share, shape, down, right = generator.random(4).tolist()
            area = image_height * image_width * (self.scale[0] + (self.scale[1] - self.scale[0]) * share)
            ratio = math.exp(low + (high - low) * shape)
            width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < width <= image_width and 0 < height <= image_height:
                top, left = int(down * (image_height - height + 1)), int(right * (image_width - width + 1))
                return top, left, height, width
        # No draw fits if the image is very long: take the central part with an allowed aspect ratio.
        width = min(image_width, round(image_height * self.ratio[1]))
        height = min(image_height, round(image_width / self.ratio[0]))
        return (image_height - height) // 2, (image_width - width) // 2, height, width


@dataclass(frozen=True, kw_only=True)
class ScaleJitterCrop:
    """Resizes the short side to a random length and takes a random crop (VGG, section 3.1; ResNet, section 3.4).

    The range in ResNet is 256 to 480.

    The crop is cut from the stored image and then resized. It shows the same part as resizing the whole image first.
    The range 256 to 256 is AlexNet's crop (Krizhevsky et al. 2012, section 4.1).

    Args:
        min_side: Smallest short side.
        max_side: Largest short side.

    Raises:
        UserError: ``min_side`` is larger than ``max_side``.
    """

    min_side: PositiveInt
    max_side: PositiveInt

    def __post_init__(self) -> None:
        if self.min_side > self.max_side:
            raise UserError(
                f"augment.crop.min_side={self.min_side}: expected at most augment.crop.max_side={self.max_side}"
            )

    def __call__(self, picture: Picture, generator: np.random.Generator, out: Tensor) -> None:
        """Fill ``out``, (C, size, size)."""
        _fill(out, picture, self.box(picture.height, picture.width, out.shape[-1], generator))

    def box(self, image_height: int, image_width: int, size: int, generator: np.random.Generator) -> Box:
        """Draw the part of an image that is resized to ``size`` pixels a side."""
        short = min(image_height, image_width)
        side = int(generator.integers(self.min_side, self.max_side + 1))
        stored = max(1, min(short, round(size * short / side)))  # below ``size``, the whole short side
        top, left = (int(generator.integers(length - stored + 1)) for length in (image_height, image_width))
        return top, left, stored, stored


@dataclass(frozen=True, kw_only=True)
class HorizontalFlip:
    """Mirrors left and right.

    Args:
        p: Probability.

    Raises:
        UserError: ``p`` is not between 0 and 1.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise UserError(f"augment.steps.flip.p={self.p}: expected a probability from 0 to 1")

    def __call__(self, image: Tensor, generator: np.random.Generator) -> Tensor:
        """Flip an image, (C, H, W), with probability ``p``."""
        return image.flip(-1) if generator.random() < self.p else image


def center_crop(image: Tensor, size: int, resize: int | None) -> Tensor:
    """Crop the central square of an image, (C, H, W) to (C, size, size), as in torchvision's evaluations.

    Args:
        image: The image, uint8.
        size: Side of the square in pixels. A smaller image is padded with zeros.
        resize: Short side before the crop, antialiased bilinear; None leaves the image as it is.
    """
    image = _resized(image, resize)
    top, left = (_middle(side - size) for side in image.shape[-2:])
    return _window(image, top, left, size)


def _resized(image: Tensor, short_side: int | None) -> Tensor:
    resized: Tensor = image if short_side is None else TF.resize(image, [short_side], antialias=True)
    return resized


def _fill(out: Tensor, picture: Picture, box: Box) -> None:
    """Resize a part of a stored image into ``out``, (C, size, size), antialiased bilinear."""
    size = out.shape[-1]
    part = picture.region(*box, size)[None].contiguous(memory_format=torch.channels_last)
    # The kernel of torchvision's resize. Called directly, it writes to the batch without a copy.
    torch.ops.aten._upsample_bilinear2d_aa.out(part, [size, size], False, out=out[None])


def _middle(spare: int) -> int:
    # Round as torchvision's center_crop does, because published evaluations depend on it.
    return round(spare / 2) if spare > 0 else -(-spare // 2)


def _window(image: Tensor, top: int, left: int, size: int) -> Tensor:
    """Crop the square at (top, left), with zeros outside the image: (C, H, W) to (C, size, size)."""
    height, width = image.shape[-2:]
    if (top, left, height, width) == (0, 0, size, size):
        return image
    # One kernel pads and crops: negative padding crops.
    return torch.constant_pad_nd(image, [-left, left + size - width, -top, top + size - height])
