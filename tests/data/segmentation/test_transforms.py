"""What happens to an image and its mask together."""

import numpy as np
import pytest
import torch
from torch import Tensor

from convatlas.data.batch import IGNORE_INDEX
from convatlas.data.images.decode import Picture
from convatlas.data.segmentation.transforms import ElasticDeformation, Flip, JointAugmentation, ScaleCrop
from convatlas.errors import UserError


def pair(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """An image whose first channel is ten times its mask, blocks of classes 0 to 4."""
    blocks = np.random.default_rng(seed).integers(0, 5, (-(-height // 8), -(-width // 8)))
    mask = np.kron(blocks, np.ones((8, 8), np.int64))[:height, :width].astype(np.uint8)
    image = np.stack([mask * 10, *np.indices(mask.shape)]).astype(np.uint8)
    return torch.from_numpy(image), torch.from_numpy(mask)


def agreement(image: Tensor, mask: Tensor) -> float:
    """The share of pixels where image and mask say the same, void pixels aside."""
    counted = mask != IGNORE_INDEX
    return float((image[0].float() / 10).round()[counted].eq(mask[counted]).float().mean())


def test_at_the_stored_scale_a_crop_is_a_window() -> None:
    image, mask = pair(60, 90)
    for seed in range(20):
        shown, labels = ScaleCrop()(Picture.of(image, "x"), mask, np.random.default_rng(seed), 32)
        top, left = int(shown[1, 0, 0]), int(shown[2, 0, 0])
        assert torch.equal(shown, image[:, top : top + 32, left : left + 32])
        assert torch.equal(labels, mask[top : top + 32, left : left + 32])


def test_crops_reach_every_corner() -> None:
    image, mask = pair(40, 40)
    corners = set()
    for seed in range(400):
        shown, _ = ScaleCrop()(Picture.of(image, "x"), mask, np.random.default_rng(seed), 36)
        corners.add((int(shown[1, 0, 0]), int(shown[2, 0, 0])))
    assert len(corners) == 25


def test_a_smaller_image_has_void_around_it() -> None:
    image, mask = pair(20, 50)
    shown, labels = ScaleCrop()(Picture.of(image, "x"), mask, np.random.default_rng(0), 40)
    outside = labels == IGNORE_INDEX
    assert outside.sum() == 20 * 40
    assert not shown[:, outside].any()
    assert agreement(shown, labels) == 1


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.3, 2.0])
def test_image_and_mask_are_enlarged_alike(scale: float) -> None:
    image, mask = pair(96, 96)
    shown, labels = ScaleCrop(scale=(scale, scale))(Picture.of(image, "x"), mask, np.random.default_rng(1), 64)
    assert shown.shape == (3, 64, 64)
    assert labels.shape == (64, 64)
    assert agreement(shown, labels) > 0.75  # the rest lies on the edges of blocks, where the image is smooth
    rows = shown[1, :, 32][labels[:, 32] != IGNORE_INDEX].float()
    assert float(rows[-1] - rows[0]) / (len(rows) - 1) == pytest.approx(1 / scale, rel=0.05)


def test_flips_are_drawn_for_both() -> None:
    image, mask = pair(24, 32)
    seen = set()
    for seed in range(40):
        shown, labels = Flip(horizontal=0.5, vertical=0.5)(image, mask, np.random.default_rng(seed))
        assert agreement(shown, labels) == 1
        seen.add((int(shown[1, 0, 0]), int(shown[2, 0, 0])))
    assert seen == {(0, 0), (0, 31), (23, 0), (23, 31)}
    unchanged = Flip(horizontal=0, vertical=0)(image, mask, np.random.default_rng(0))
    assert torch.equal(unchanged[0], image)


def test_a_deformation_without_displacement_changes_nothing() -> None:
    image, mask = pair(40, 56)
    shown, labels = ElasticDeformation(sigma=0)(image, mask, np.random.default_rng(0))
    assert torch.equal(shown, image)
    assert torch.equal(labels, mask)


def test_image_and_mask_are_deformed_alike() -> None:
    image, mask = pair(128, 128)
    shown, labels = ElasticDeformation(sigma=10, rotation=20)(image, mask, np.random.default_rng(3))
    assert not torch.equal(labels, mask)
    assert agreement(shown, labels) > 0.8
    assert not (labels == IGNORE_INDEX).any()  # mirrored past the border


def test_displacements_have_the_deviation_that_is_asked_for() -> None:
    rows = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 256)
    image, mask = torch.stack([rows, rows, rows]), torch.zeros(256, 256, dtype=torch.uint8)
    moved = []
    for seed in range(60):
        shown, _ = ElasticDeformation(sigma=10)(image, mask, np.random.default_rng(seed))
        moved.append(float(shown[0, 128, 128]) - 128)  # a point of the grid
    assert 7.5 < np.std(moved) < 12.5


def test_a_rotation_turns_about_the_centre() -> None:
    image, mask = pair(65, 65)
    shown, _ = ElasticDeformation(sigma=0, rotation=30)(image, mask, np.random.default_rng(5))
    assert shown[1:, 32, 32].tolist() == [32, 32]


def test_colours_change_the_image_alone() -> None:
    image, mask = pair(32, 32)
    augmentation = JointAugmentation(crop=ScaleCrop(), steps={"invert": lambda x, _: 255 - x})
    shown, labels, weights = augmentation.show(Picture.of(image, "x"), mask, np.random.default_rng(0), 32)
    assert torch.equal(shown, 255 - image)
    assert torch.equal(labels, mask)
    assert weights is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScaleCrop(scale=(2, 1)), r"augment\.crop\.scale=\[2,1\]"),
        (lambda: Flip(vertical=2), r"augment\.joint\.flip\.vertical=2: expected a probability"),
        (lambda: ElasticDeformation(grid=1), r"augment\.joint: .*grid=1.*expected"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()  # type: ignore[operator]
