"""TrivialAugment and RandAugment: torchvision's pixels, drawn from the sample's own generator."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from convatlas.data.transforms import auto_augment
from convatlas.data.transforms.auto_augment import (
    LEVELS,
    OPERATIONS,
    Interpolation,
    Operation,
    RandAugment,
    TrivialAugmentWide,
)
from convatlas.data.transforms.image import Step
from convatlas.errors import UserError
from tests.data.pictures import picture

STEPS: list[Any] = [TrivialAugmentWide(), RandAugment(magnitude=7, magnitude_std=0.5, p=0.5)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the loader; teams of threads would only wait for each other on such small images."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Choices:
    """Stands in for a generator: says what was chosen, call by call."""

    def __init__(self, *integers: int) -> None:
        self.chosen = iter(integers)

    def integers(self, _: int) -> int:
        return next(self.chosen)

    def normal(self, mean: float, _: float) -> float:
        return mean

    def random(self) -> float:
        return 0.0


def forced(monkeypatch: pytest.MonkeyPatch, *integers: int, negative: bool) -> None:
    """Let torchvision choose the operation and level too."""
    chosen = iter(integers)
    monkeypatch.setattr(torch, "randint", lambda *_: torch.tensor(next(chosen)))
    monkeypatch.setattr(torch, "rand", lambda *_: torch.tensor(0.0 if negative else 1.0))


def every_choice() -> Iterator[tuple[int, int, bool]]:
    for row, operation in enumerate(OPERATIONS.values()):
        for level in range(LEVELS) if operation.wide[0] != operation.wide[1] else [0]:
            for negative in (False, True) if operation.signed else [False]:
                yield row, level, negative


def test_the_operations_are_torchvisions() -> None:
    for peer in (v2.TrivialAugmentWide, v2.RandAugment):
        assert list(OPERATIONS) == list(peer._AUGMENTATION_SPACE)
        assert [row.signed for row in OPERATIONS.values()] == [s for _, s in peer._AUGMENTATION_SPACE.values()]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 50)])
def test_trivial_augment_has_torchvisions_pixels_for_every_choice(
    shape: tuple[int, int, int], interpolation: Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(*shape)
    peer = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode(interpolation))
    step: Any = TrivialAugmentWide(interpolation=interpolation)
    for row, level, negative in every_choice():
        forced(monkeypatch, row, level, negative=negative)
        assert torch.equal(step(image, Choices(row, level, negative)), peer(image)), (row, level, negative)


@pytest.mark.parametrize("width", [50, 331])
def test_rand_augment_has_torchvisions_pixels_for_every_choice(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(3, 12, width)
    for row, level, negative in every_choice():
        forced(monkeypatch, row, negative=negative)
        peer = v2.RandAugment(num_ops=1, magnitude=level)
        step: Any = RandAugment(num_ops=1, magnitude=level / 3)
        assert torch.equal(step(image, Choices(row, negative)), peer(image)), (row, level, negative)


@pytest.mark.parametrize("rows", [(1, 9, 13), (8, 8, 3), (6, 10, 11)])
def test_rand_augment_applies_one_operation_after_the_other(
    rows: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(3)
    forced(monkeypatch, *rows, negative=True)
    step: Any = RandAugment(num_ops=3, magnitude=5)
    choices = Choices(*(choice for row in rows for choice in (row, True)))
    assert torch.equal(step(image, choices), v2.RandAugment(num_ops=3, magnitude=15)(image))


@pytest.mark.parametrize("name", OPERATIONS)
def test_channels_last_strides_change_nothing(name: str) -> None:
    image = picture(3)
    strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    operation = OPERATIONS[name]
    first, second = (operation(each, operation.wide, 20, True, "bilinear") for each in (image, strided))
    assert torch.equal(first, second)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_repeats_with_its_generator_on_any_number_of_threads(step: Step, channels: int) -> None:
    def augmented(seed: int) -> Tensor:
        return step(picture(channels), np.random.default_rng([3, seed]))

    before = torch.get_rng_state(), random.getstate()
    alone = [augmented(seed) for seed in range(60)]
    with ThreadPoolExecutor(5) as pool:
        together = list(pool.map(augmented, range(60)))
    assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))
    assert {(image.shape, image.dtype) for image in alone} == {((channels, 20, 24), torch.uint8)}
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float, bool]]:
    """Row, level and sign of every operation that a step asks for."""
    calls: list[tuple[int, float, bool]] = []

    def row(number: int) -> Operation:
        class Recorder(Operation):
            def __call__(self, image: Tensor, _: Any, level: float, negative: bool, *__: Any) -> Tensor:
                calls.append((number, level, negative))
                return image

        return Recorder(lambda image, *_: image)

    monkeypatch.setattr(auto_augment, "ROWS", [row(number) for number in range(len(OPERATIONS))])
    return calls


def test_trivial_augment_draws_operations_levels_and_signs_uniformly(recorded: list[tuple[int, float, bool]]) -> None:
    for seed in range(4200):
        TrivialAugmentWide()(picture(1), np.random.default_rng(seed))
    rows, levels, signs = (np.array(column) for column in zip(*recorded, strict=True))
    assert np.bincount(rows, minlength=14) == pytest.approx(np.full(14, 300), abs=75)
    assert np.bincount(levels, minlength=31) == pytest.approx(np.full(31, 135), abs=55)
    assert signs.mean() == pytest.approx(0.5, abs=0.04)


def test_rand_augment_draws_each_operations_magnitude_and_skips_some(recorded: list[tuple[int, float, bool]]) -> None:
    step = RandAugment(num_ops=3, magnitude=7, magnitude_std=0.5, p=0.4)
    for seed in range(1000):
        step(picture(1), np.random.default_rng(seed))
    rows, levels, _ = (np.array(column) for column in zip(*recorded, strict=True))
    assert len(rows) == pytest.approx(1200, abs=110)
    assert len(set(rows)) == 14
    assert levels.mean() == pytest.approx(21, abs=0.2)
    assert levels.std() == pytest.approx(1.5, abs=0.12)


def test_a_drawn_magnitude_stays_in_its_range(recorded: list[tuple[int, float, bool]]) -> None:
    step = RandAugment(magnitude=10, magnitude_std=5)
    for seed in range(100):
        step(picture(1), np.random.default_rng(seed))
    levels = [level for _, level, _ in recorded]
    assert max(levels) == 30
    assert min(levels) >= 0


@pytest.mark.parametrize(
    "settings", [{"num_ops": 0}, {"magnitude": 11.0}, {"magnitude": -1.0}, {"magnitude_std": -1.0}, {"p": 1.5}]
)
def test_numbers_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"augment.steps: RandAugment\(.*expected"):
        RandAugment(**settings)
