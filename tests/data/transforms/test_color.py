"""Colour jitter draws from the sample's generator alone, and changes pixels as torchvision does."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from convatlas.data.transforms.color import ColorJitter
from convatlas.errors import UserError
from tests.data.pictures import picture

JITTER = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def jitter(**half_widths: float) -> ColorJitter:
    return ColorJitter(**half_widths)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_repeats_with_its_generator_and_touches_no_other(channels: int) -> None:
    before = torch.get_rng_state(), random.getstate()
    first, again, other = (JITTER(picture(channels), np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.shape, first.dtype) == ((channels, 20, 24), torch.uint8)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_pixels_are_torchvisions_for_the_same_order_and_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        order = generator.permutation(4).tolist()
        drawn = {
            change: generator.uniform(*[(0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)][change]) for change in order
        }
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        params: dict[str, Any] = {name: drawn[change] for change, name in enumerate(names)} | {"fn_idx": order}
        peer = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
        monkeypatch.setattr(peer, "make_params", lambda _, params=params: params)
        assert torch.equal(JITTER(picture(3), np.random.default_rng(seed)), peer(picture(3)))


def test_channels_last_strides_change_nothing() -> None:
    image = picture(3)
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    first, second = (JITTER(each, np.random.default_rng(1)) for each in (image, strided))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("step", "adjust"),
    [
        (jitter(brightness=2.0), TF.adjust_brightness),
        (jitter(contrast=0.5), TF.adjust_contrast),
        (jitter(saturation=0.5), TF.adjust_saturation),
        (jitter(hue=0.5), TF.adjust_hue),
    ],
    ids=["brightness", "contrast", "saturation", "hue"],
)
def test_one_half_width_makes_one_change_over_its_range(
    step: ColorJitter, adjust: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def record(image: Tensor, amount: float) -> Tensor:
        seen.append(amount)
        return image

    monkeypatch.setattr(TF, adjust.__name__, record)
    for seed in range(400):
        step(picture(3), np.random.default_rng(seed))
    low, high = {"adjust_brightness": (0, 3), "adjust_hue": (-0.5, 0.5)}.get(adjust.__name__, (0.5, 1.5))
    assert len(seen) == 400
    assert low <= min(seen) < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < max(seen) <= high
    assert np.mean(seen) == pytest.approx((low + high) / 2, abs=0.1 * (high - low))


def test_no_half_width_leaves_the_image() -> None:
    assert torch.equal(jitter()(picture(3), np.random.default_rng(0)), picture(3))


def test_every_order_of_the_four_changes_occurs(monkeypatch: pytest.MonkeyPatch) -> None:
    orders: set[tuple[str, ...]] = set()
    done: list[str] = []

    def recorder(name: str) -> Callable[[Tensor, float], Tensor]:
        def record(image: Tensor, _: float) -> Tensor:
            done.append(name)
            return image

        return record

    for name in ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"):
        monkeypatch.setattr(TF, name, recorder(name))
    for seed in range(300):
        done.clear()
        JITTER(picture(3), np.random.default_rng(seed))
        orders.add(tuple(done))
    assert len(orders) == 24


@pytest.mark.parametrize("half_widths", [{"brightness": -0.1}, {"hue": 0.6}, {"hue": -0.1}])
def test_half_widths_outside_their_range_are_refused(half_widths: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"augment.steps: ColorJitter\(.*expected"):
        jitter(**half_widths)
