"""Boxes and masks follow their images: what an object's pixels are stays inside its box and under its mask."""

from typing import Any

import numpy as np
import pytest
import torch

from convatlas.data.detection.transforms import (
    DetectionSample,
    ObjectAugmentation,
    ObjectFlip,
    ObjectStep,
    ResizeShortSide,
    ScaleJitter,
    scaled_size,
)
from convatlas.data.transforms.color import ColorJitter
from convatlas.errors import UserError


def shown(masks: bool = True) -> DetectionSample:
    """A white rectangle and a grey one on black, 40 x 60 pixels."""
    image, found = torch.zeros(3, 40, 60, dtype=torch.uint8), torch.zeros(2, 40, 60, dtype=torch.uint8)
    boxes = torch.tensor([[6.0, 8, 30, 20], [40, 4, 56, 36]])
    for row, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        image[:, y0:y1, x0:x1] = (255, 128)[row]
        found[row, y0:y1, x0:x1] = 1
    return DetectionSample(image, boxes, torch.tensor([3, 1]), found if masks else None)


STEPS: dict[str, ObjectStep] = {
    "resize": ResizeShortSide(short_sides=[80], long_side=200),
    "shrink": ResizeShortSide(short_sides=[20], long_side=200),
    "flip": ObjectFlip(p=1.0),
    "jitter": ScaleJitter(scale=(0.5, 1.5), size=64),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("seed", range(4))
def test_boxes_and_masks_stay_on_their_objects(name: str, seed: int) -> None:
    after = STEPS[name](shown(), np.random.default_rng(seed))
    assert after.masks is not None
    assert after.masks.shape[1:] == after.image.shape[1:] == torch.Size(after.size)
    assert len(after.boxes) == len(after.labels) == len(after.masks) > 0
    for box, label, mask in zip(after.boxes, after.labels.tolist(), after.masks, strict=True):
        brightness = after.image[0][mask.bool()].float().mean()
        assert abs(brightness - {3: 255, 1: 128}[label]) < 16
        rows, columns = mask.nonzero(as_tuple=True)
        around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        torch.testing.assert_close(box, around, atol=1.0, rtol=0)


@pytest.mark.parametrize("name", STEPS)
def test_masks_are_not_needed(name: str) -> None:
    with_masks, without = (STEPS[name](shown(masks), np.random.default_rng(1)) for masks in (True, False))
    assert without.masks is None
    assert torch.equal(with_masks.boxes, without.boxes)
    assert torch.equal(with_masks.image, without.image)


@pytest.mark.parametrize("name", STEPS)
def test_an_image_without_objects_stays_one(name: str) -> None:
    empty = DetectionSample(
        shown().image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 40, 60).byte()
    )
    after = STEPS[name](empty, np.random.default_rng(0))
    assert after.boxes.shape == (0, 4)
    assert after.masks is not None
    assert after.masks.shape == (0, *after.size)


def test_the_whole_is_a_function_of_the_generator() -> None:
    augmentation = ObjectAugmentation(
        resize=ScaleJitter(size=64), joint={"flip": ObjectFlip()}, steps={"color": ColorJitter(brightness=0.5)}
    )
    one, same, other = (augmentation(shown(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(one.image, same.image)
    assert torch.equal(one.boxes, same.boxes)
    assert one.size != other.size or not torch.equal(one.image, other.image)


def test_colours_change_the_image_alone() -> None:
    augmentation = ObjectAugmentation(steps={"color": ColorJitter(brightness=0.5)})
    before, after = shown(), augmentation(shown(), np.random.default_rng(0))
    assert torch.equal(before.boxes, after.boxes)
    assert not torch.equal(before.image, after.image)


def test_objects_of_which_nothing_is_left_are_gone() -> None:
    after = shown().window(0, 32, 40, 28)
    assert after.labels.tolist() == [1]
    assert after.boxes.tolist() == [[8, 4, 24, 36]]
    assert len(after.masks) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((300, 900), (444, 1333))]
)
def test_the_short_side_is_resized_unless_the_long_one_gets_too_long(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert scaled_size(size, 800, 1333) == expected


def test_several_short_sides_are_all_drawn() -> None:
    step = ResizeShortSide(short_sides=[20, 30], long_side=100)
    assert {step(shown(), np.random.default_rng(seed)).size[0] for seed in range(20)} == {20, 30}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ObjectFlip(p=1.5), r"augment\.joint\.flip\.p=1\.5: expected a probability"),
        (lambda: ResizeShortSide(short_sides=[], long_side=9), r"short_sides=\[\]: expected at least one"),
        (lambda: ScaleJitter(scale=(2.0, 1.0)), r"augment\.resize\.scale=\[2\.0,1\.0\]: expected two numbers above 0"),
    ],
)
def test_settings_without_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
