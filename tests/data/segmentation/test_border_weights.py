"""U-Net's weight map, against its formula computed by brute force."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convatlas.data.segmentation.border_weights import BorderWeights, components, two_nearest
from convatlas.errors import UserError


def blobs(seed: int, size: int = 48) -> NDArray[np.uint8]:
    """Random smooth regions of class 1 on a background, with some void."""
    generator = np.random.default_rng(seed)
    noise = torch.from_numpy(generator.normal(size=(1, 1, 12, 12)).astype(np.float32))
    field = torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")[0, 0].numpy()
    labels = (field > 0.2).astype(np.uint8)
    labels[:2, :2] = 255
    return labels


def flooded(inside: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Connected parts, one pixel after another."""
    left = {(int(y), int(x)) for y, x in np.argwhere(inside)}
    parts = []
    while left:
        waiting, part = [left.pop()], np.zeros_like(inside)
        while waiting:
            y, x = waiting.pop()
            part[y, x] = True
            for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_those_that_flooding_finds(seed: int) -> None:
    labels = blobs(seed)
    found = components(labels, labels == 1)
    parts = flooded(labels == 1)
    assert int(found.max()) == len(parts) > 3
    assert all(len(np.unique(found[part])) == 1 for part in parts)
    assert not found[labels != 1].any()


def test_neighbours_of_two_classes_are_two_objects() -> None:
    labels = np.array([[1, 1, 2, 2], [1, 0, 0, 2]], np.uint8)
    assert components(labels, labels > 0).tolist() == [[1, 1, 2, 2], [1, 0, 0, 2]]


@pytest.mark.parametrize("seed", range(3))
def test_weights_follow_the_formula(seed: int) -> None:
    labels = blobs(seed)
    weights = BorderWeights(objects=[1], w0=10, sigma=5, class_weights=[2.0, 3.0])(torch.from_numpy(labels)).numpy()
    points = [np.argwhere(part) for part in flooded(labels == 1)]
    for y, x in np.random.default_rng(0).integers(0, 48, (200, 2)):
        wanted = {0: 2.0, 1: 3.0, 255: 1.0}[int(labels[y, x])]
        if labels[y, x] != 1:
            first, second = sorted(np.sqrt(((part - (y, x)) ** 2).sum(axis=1)).min() for part in points)[:2]
            wanted += 10 * np.exp(-((first + second) ** 2) / 50)
        assert weights[y, x] == pytest.approx(wanted, abs=1e-3)


def test_a_single_object_leaves_all_pixels_alike() -> None:
    mask = torch.zeros(20, 20, dtype=torch.uint8)
    assert (BorderWeights(objects=[1])(mask) == 1).all()
    mask[5:9, 5:9] = 1
    assert (BorderWeights(objects=[1])(mask) == 1).all()


def test_distances_end_at_the_reach() -> None:
    parts = np.zeros((1, 12), np.int64)
    parts[0, 0], parts[0, 11] = 1, 2
    first, second = two_nearest(parts, reach=8)
    assert first[0].tolist() == [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0]
    assert second[0].tolist() == [np.inf] * 3 + [8, 7, 6, 6, 7, 8] + [np.inf] * 3


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match=r"augment\.weights: w0=10.0, sigma=0"):
        BorderWeights(objects=[1], sigma=0)
