"""Crops and flips: what part of an image fills a row of the batch."""

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from convatlas.data.images.decode import Picture
from convatlas.data.transforms.image import (
    CenterCrop,
    Crop,
    HorizontalFlip,
    PadCrop,
    RandomResizedCrop,
    ScaleJitterCrop,
    center_crop,
)

CROPS: list[Any] = [
    CenterCrop(),
    CenterCrop(resize=18),
    PadCrop(padding=4),
    PadCrop(padding=2, resize=20),
    RandomResizedCrop(),
    ScaleJitterCrop(min_side=16, max_side=20),
    ScaleJitterCrop(min_side=12, max_side=14),
]


def shown(crop: Crop, image: torch.Tensor, size: int, *seed: int) -> torch.Tensor:
    out = torch.full((1, image.shape[0], size, size), 77, dtype=torch.uint8).to(memory_format=torch.channels_last)[0]
    crop(Picture.of(image, "x"), np.random.default_rng(seed), out)
    return out


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("crop", CROPS, ids=repr)
@pytest.mark.parametrize("shape", [(3, 24, 30), (1, 40, 17), (3, 7, 90), (1, 16, 16)])
def test_every_crop_fills_its_size_and_repeats_with_its_generator(crop: Crop, shape: tuple[int, ...]) -> None:
    image = noise(*shape)
    assert torch.equal(shown(crop, image, 16, 1, 2, 3), shown(crop, image, 16, 1, 2, 3))


def test_a_small_image_is_padded_in_the_middle() -> None:
    padded = center_crop(torch.full((1, 28, 28), 9, dtype=torch.uint8), 32, None)
    assert torch.equal(padded[0, 2:30, 2:30], torch.full((28, 28), 9, dtype=torch.uint8))
    assert int(padded.sum()) == 9 * 28 * 28


@pytest.mark.parametrize("shape", [(28, 28), (29, 31), (33, 40), (35, 20), (20, 37), (32, 32)])
def test_the_centre_is_where_torchvision_has_it(shape: tuple[int, int]) -> None:
    image = noise(3, *shape)
    assert torch.equal(center_crop(image, 32, None), TF.center_crop(image, [32, 32]))
    assert torch.equal(center_crop(image, 32, 40), TF.center_crop(TF.resize(image, [40], antialias=True), [32, 32]))


def test_the_random_crop_reaches_every_offset() -> None:
    image = torch.arange(36, dtype=torch.uint8).view(1, 6, 6) + 1
    corners = {int(shown(PadCrop(padding=1), image, 6, seed)[0, 2, 2]) for seed in range(200)}
    assert corners == {8, 9, 10, 14, 15, 16, 20, 21, 22}


def test_the_random_resized_crop_stays_in_its_ranges() -> None:
    crop = RandomResizedCrop(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    for seed in range(300):
        top, left, height, width = crop.box(60, 80, np.random.default_rng(seed))
        assert 0 <= top <= 60 - height
        assert 0 <= left <= 80 - width
        assert 0.19 <= height * width / 4800 <= 0.51
        assert 0.48 <= width / height <= 2.1


def test_the_random_resized_crop_is_torchvisions_of_its_box() -> None:
    image, crop = noise(3, 60, 80), RandomResizedCrop()
    for seed in range(20):
        box = crop.box(60, 80, np.random.default_rng(seed))
        assert torch.equal(shown(crop, image, 16, seed), TF.resized_crop(image, *box, [16, 16], antialias=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 32, 32), (3, 20, 32)])
def test_the_whole_image_can_be_the_crop(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    image = noise(*shape)[None].contiguous(memory_format=layout)[0]
    for turned in (image, image.transpose(-1, -2).flip(-1)):
        out = torch.empty((1, shape[0], 16, 16), dtype=torch.uint8).to(memory_format=torch.channels_last)[0]
        ratio = turned.shape[2] / turned.shape[1]
        crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=(ratio, ratio))
        crop(Picture.of(turned, "x"), np.random.default_rng(0), out)
        assert torch.equal(out, TF.resize(turned, [16, 16], antialias=True))


def test_scale_jitter_shows_the_part_that_a_resized_image_would_show() -> None:
    crop = ScaleJitterCrop(min_side=256, max_side=480)
    for seed in range(300):
        top, left, height, width = crop.box(375, 500, 224, np.random.default_rng(seed))
        assert 0 <= top <= 375 - height
        assert 0 <= left <= 500 - width
        assert round(224 * 375 / 480) <= height == width <= round(224 * 375 / 256)


def test_flips_happen_half_of_the_time() -> None:
    image = torch.arange(2, dtype=torch.uint8).view(1, 1, 2)
    flip = HorizontalFlip(p=0.5)
    flipped = sum(bool(flip(image, np.random.default_rng(seed))[0, 0, 0]) for seed in range(400))
    assert 160 <= flipped <= 240
