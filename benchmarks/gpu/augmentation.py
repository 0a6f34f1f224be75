"""Compare the normalisation and augmentation of batches on the GPU with those on the CPU."""

from collections.abc import Iterator
from typing import Any

from hydra.utils import instantiate
from torch import Tensor

from benchmarks.gpu.cases import moved
from benchmarks.gpu.rows import Row, Setting
from convatlas.config.composition import compose

DATA = {
    "mixup and cutmix": ["data=fashion_mnist_sample", "augment=rand_augment", "augment.image_size=28"],
    "colours by principal components": [
        "data=fashion_mnist_sample",
        "augment=alexnet",
        "data.in_channels=3",
        "data.mean=[0.5,0.5,0.5]",
        "data.std=[0.25,0.25,0.25]",
    ],
    "masks": ["data=shapes_masks", "augment=masks_scale_crop_flip_color"],
    "objects": ["data=shapes_objects", "augment=objects_flip"],
}
"""Overrides by what the device computes."""
BOUND = 1e-5


def augmentation(setting: Setting) -> Iterator[Row]:
    """Compare normalised and augmented batches: the largest difference of a pixel, in standard deviations."""
    for name, overrides in DATA.items():
        config = compose("train", [*overrides, "data.global_batch_size=8", "data.threads=1"])
        data = instantiate(config.data)
        batch = next(iter(data.train_dataloader()))
        expected = data.on_after_batch_transfer(batch, 0)
        found = data.on_after_batch_transfer(moved(batch, setting.device), 0)
        differences = [
            float((mine.cpu().double() - other.double()).abs().max())
            for mine, other in zip(_tensors(found), _tensors(expected), strict=True)
            if other.numel()
        ]
        yield Row.within(name, BOUND, largest_difference=max(differences))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []
