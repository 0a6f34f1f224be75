"""Measure the speed of the loader and of its stages."""

import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np
import torch
from torch import Tensor

from convatlas.data.classification.module import ClassificationDataModule
from convatlas.data.images.decode import Picture
from convatlas.data.loader import PrefetchingLoader
from convatlas.data.sources.images import ArraySource

STAGES = ("read", "decode", "crop_and_resize", "steps")
"""What happens to an image; what is left of the loader's time is collation: tasks, labels, memory."""


@dataclass(frozen=True)
class LoaderSpeed:
    """The speed of a loader.

    Attributes:
        images: Images that were loaded.
        images_per_second: By the clock, with the loader's own threads.
        cpu_ms_per_image: Processor time of the whole process, user and system, in milliseconds.
    """

    images: int
    images_per_second: float
    cpu_ms_per_image: float


def loader_speed(loader: PrefetchingLoader, batches: int) -> LoaderSpeed:
    """Measure the speed of loading batches after one warm-up batch. Epochs are repeated if necessary."""
    next(iter(loader))
    clock, processor = time.perf_counter(), time.process_time()
    images = sum(len(batch.labels) for batch in islice(chain.from_iterable(repeat(loader)), batches))
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    return LoaderSpeed(images, images / clock, 1000 * processor / images)


def stage_times(data: ClassificationDataModule, images: int) -> dict[str, float]:
    """Processor time of each stage of the training pipeline on one thread, in milliseconds an image.

    Args:
        data: The images and their augmentation.
        images: Number of images that are loaded, spread over the training split.
    """
    source, augmentation, size = data.sources["train"], data.augment, data.augment.size(0) or data.image_size
    indices = data.indices["train"][np.arange(images) * data.num_samples("train") // images]
    row = torch.empty((1, data.in_channels, size, size), dtype=torch.uint8, memory_format=torch.channels_last)[0]
    seconds: dict[str, float] = defaultdict(float)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for number, index in enumerate(indices.tolist()):
        generator = np.random.default_rng([data.seed, 0, number])
        start = time.thread_time()
        if not isinstance(source, ArraySource):  # which has nothing to read
            source.encoded(index)
        read = time.thread_time()
        picture = _TimedPicture(source.open(index))  # reads once more, and decodes what is no JPEG
        opened = time.thread_time()
        augmentation.crop(picture, generator, row)  # type: ignore[arg-type]
        cropped = time.thread_time()
        for step in augmentation.steps.values():
            row.copy_(step(row, generator))
        seconds["read"] += read - start
        seconds["decode"] += max(0.0, opened - read - (read - start)) + picture.seconds
        seconds["crop_and_resize"] += cropped - opened - picture.seconds
        seconds["steps"] += time.thread_time() - cropped
    torch.set_num_threads(threads)
    return {stage: 1000 * seconds[stage] / images for stage in STAGES}


class _TimedPicture:
    """A picture that takes the time of its decoding."""

    def __init__(self, picture: Picture) -> None:
        self.height, self.width = picture.height, picture.width
        self.seconds = 0.0
        self._picture = picture

    def pixels(self) -> Tensor:
        start = time.thread_time()
        pixels = self._picture.pixels()
        self.seconds += time.thread_time() - start
        return pixels

    def region(self, top: int, left: int, height: int, width: int, size: int) -> Tensor:
        start = time.thread_time()
        pixels = self._picture.region(top, left, height, width, size)
        self.seconds += time.thread_time() - start
        return pixels
