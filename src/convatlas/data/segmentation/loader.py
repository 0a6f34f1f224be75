"""The loader of images with masks: crops of one size for training, whole images for evaluation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convatlas.data.batch import SegmentationBatch, WholeImageBatch
from convatlas.data.images.decode import ImageError, Picture
from convatlas.data.loader import PrefetchingLoader
from convatlas.data.segmentation.sources import MaskSource
from convatlas.data.segmentation.transforms import JointAugmentation

MaskSample = tuple[Tensor, Tensor, Tensor | None]
"""An image (C, H, W), its mask (H, W), and the weights of its pixels."""


class MaskLoader(PrefetchingLoader):
    """Yields a ``SegmentationBatch`` with an augmentation, otherwise a ``WholeImageBatch``.

    Args:
        source: The images and masks.
        augmentation: Augmentation of an image and its mask; None loads them whole.
        image_size: Height and width of an augmented image in pixels.
        arguments: The arguments of ``PrefetchingLoader``.
    """

    source: MaskSource

    def __init__(self, *, augmentation: JointAugmentation | None, image_size: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.augmentation = augmentation
        self.image_size = image_size

    def load(self, position: int, generator: np.random.Generator, memory: None, row: int) -> MaskSample:
        """Read an image and its mask, and augment both."""
        picture, mask = self.source.open(position), self.source.mask(position)
        check_size(self.source.path(position), picture, mask)
        if self.augmentation is None:
            return picture.pixels(), mask, None
        return self.augmentation.show(picture, mask, generator, self.image_size)

    def collate(
        self, samples: Mapping[int, MaskSample], indices: Tensor, memory: None
    ) -> SegmentationBatch | WholeImageBatch:
        """Stack crops; whole images stay as they are."""
        images = [image for image, _, _ in samples.values()]
        masks = [mask for _, mask, _ in samples.values()]
        if self.augmentation is None:
            return WholeImageBatch(images, masks, indices)
        weights = [weight for _, _, weight in samples.values() if weight is not None]
        stacked = torch.stack(images).contiguous(memory_format=torch.channels_last)
        return SegmentationBatch(stacked, torch.stack(masks), indices, torch.stack(weights) if weights else None)


def check_size(name: str, picture: Picture, mask: Tensor) -> None:
    """Refuse a mask that is not as large as its image.

    Raises:
        ImageError: Names the image and both sizes.
    """
    if (picture.height, picture.width) != tuple(mask.shape):
        turned = (picture.width, picture.height) == tuple(mask.shape)
        hint = " (if the image has an EXIF orientation, its mask has to fit the upright image)" if turned else ""
        raise ImageError(
            name,
            "mask",
            f"the image has {picture.height} x {picture.width} pixels, its mask {mask.shape[0]} x {mask.shape[1]}; "
            f"expected the same{hint}",
        )
