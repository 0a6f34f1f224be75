"""The loader of images with objects: each keeps its shape, and a batch is as large as its largest image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from convatlas.data.batch import ObjectBatch
from convatlas.data.detection.objects import ObjectSource, decode_masks
from convatlas.data.detection.transforms import DetectionSample, ObjectAugmentation
from convatlas.data.loader import PrefetchingLoader

MULTIPLE = 32
"""Pixels: a batch's height and width are multiples of it, so that maps at every stride divide evenly."""

LoadedSample = tuple[DetectionSample, tuple[int, int]]
"""What is shown of an image, and its stored height and width."""


class ObjectLoader(PrefetchingLoader):
    """Yields an ``ObjectBatch``.

    Args:
        source: The images and their objects.
        augmentation: Augmentation of both.
        with_objects: Whether the batches hold the objects; an evaluation asks the source.
        arguments: The arguments of ``PrefetchingLoader``.
    """

    source: ObjectSource

    def __init__(self, *, augmentation: ObjectAugmentation, with_objects: bool, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.augmentation = augmentation
        self.with_objects = with_objects

    def load(self, position: int, generator: np.random.Generator, memory: None, row: int) -> LoadedSample:
        """Read an image and its objects, and augment both."""
        with torch.inference_mode(False):  # an evaluation's tensors could not be written by other threads
            image = self.source.open(position).pixels()
            size = (image.shape[-2], image.shape[-1])
            return self.augmentation(self._objects(position, image, size), generator), size

    def collate(self, samples: Mapping[int, LoadedSample], indices: Tensor, memory: None) -> ObjectBatch:
        """Pad the images and masks to the size of the largest."""
        shown = [sample for sample, _ in samples.values()]
        sizes = [sample.size for sample in shown]
        whole = batch_size(*sizes)
        channels = shown[0].image.shape[0] if shown else 0
        images = torch.zeros(len(shown), channels, *whole, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        for row, sample in zip(images, shown, strict=True):
            row[:, : sample.size[0], : sample.size[1]] = sample.image
        masks = [padded(sample.masks, whole) for sample in shown if sample.masks is not None]
        return ObjectBatch(
            images=images,
            sizes=sizes,
            stored_sizes=[size for _, size in samples.values()],
            boxes=[sample.boxes for sample in shown],
            labels=[sample.labels for sample in shown],
            masks=masks or None,
            indices=indices,
        )

    def _objects(self, position: int, image: Tensor, size: tuple[int, int]) -> DetectionSample:
        if not self.with_objects:
            return DetectionSample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None)
        objects = self.source.objects(position)
        single = np.flatnonzero(~objects.crowd).tolist()
        masks = None
        if objects.masks is not None:
            masks = decode_masks([objects.masks[position] for position in single], size)
        return DetectionSample(
            image, torch.from_numpy(objects.boxes[single]), torch.from_numpy(objects.labels[single]), masks
        )


def batch_size(*sizes: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a batch of images of these sizes."""
    height, width = (-(-max(sides) // MULTIPLE) * MULTIPLE for sides in zip(*sizes, (0, 0), strict=True))
    return height, width


def padded(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image or masks (…, h, w) at the top left of (…, height, width), zeros around."""
    return F.pad(image, [0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2]])
