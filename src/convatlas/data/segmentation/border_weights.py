"""U-Net's weight map: the background between two objects counts more the narrower it is."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.batch import VOID
from convatlas.errors import UserError

REACH = 5
"""Distances count up to so many sigmas: beyond, a weight is w0 exp(-12.5) at most."""


@dataclass(frozen=True, kw_only=True)
class BorderWeights:
    """``w(x) = w_c(x) + w0 exp(-(d1 + d2)^2 / (2 sigma^2))`` (U-Net, section 3, equation 2).

    d1 and d2 are the distances, in pixels, to the nearest and the second nearest object; the second term is that of
    background pixels alone. An object is a connected part, over edges, of one of the classes ``objects``.

    Args:
        objects: Classes of which connected parts are objects.
        w0: Weight of the narrowest gap.
        sigma: Width of the gaps that count, in pixels.
        class_weights: w_c by class, in order; None is 1 for all.
    """

    objects: list[int]
    w0: float = 10.0
    sigma: float = 5.0
    class_weights: list[float] | None = None

    def __post_init__(self) -> None:
        if self.sigma <= 0 or self.w0 < 0:
            raise UserError(f"augment.weights: w0={self.w0}, sigma={self.sigma}: expected w0 from 0 and sigma above 0")

    def __call__(self, mask: Tensor) -> Tensor:
        """Map a mask (H, W) uint8 to weights (H, W) float32."""
        labels = mask.numpy()
        table = np.ones(VOID + 1, np.float32)
        if self.class_weights is not None:
            table[: len(self.class_weights)] = self.class_weights
        weights: NDArray[np.float32] = table[labels]
        inside = np.isin(labels, self.objects)
        first, second = two_nearest(components(labels, inside), reach=round(REACH * self.sigma))
        gap = np.exp(-((first + second) ** 2) / (2 * self.sigma**2))
        weights[~inside] += self.w0 * gap[~inside]
        return torch.from_numpy(weights)


def components(labels: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the connected parts of equal labels, over edges: (H, W), 0 outside and then from 1."""
    height, width = labels.shape
    # Runs along the rows first: they are few, and joining them is all that is left to do.
    starts = inside.copy()
    starts[:, 1:] &= ~(inside[:, :-1] & (labels[:, 1:] == labels[:, :-1]))
    runs = np.cumsum(starts.ravel()).reshape(height, width) * inside
    touching = inside[1:] & inside[:-1] & (labels[1:] == labels[:-1])
    pairs = np.unique(np.stack([runs[:-1][touching], runs[1:][touching]], axis=1), axis=0)
    parent = list(range(int(runs.max(initial=0)) + 1))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for above, below in pairs.tolist():
        parent[root(below)] = root(above)
    roots = np.array([root(run) for run in range(len(parent))])
    numbers = np.unique(roots, return_inverse=True)[1]
    return numbers.astype(np.int64)[runs]


def two_nearest(parts: NDArray[np.int64], reach: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances in pixels to the nearest and second nearest part, each (H, W), exact up to ``reach``, else infinite."""
    first = np.full(parts.shape, np.inf, np.float32)
    second = first.copy()
    rows, columns = _extents(parts)
    for number in range(1, int(parts.max(initial=0)) + 1):
        window = tuple(
            slice(max(0, int(low) - reach), int(high) + 1 + reach) for low, high in (rows[number], columns[number])
        )
        distance = _distance(parts[window] == number, reach)
        nearer = np.minimum(first[window], distance)
        second[window] = np.minimum(second[window], np.maximum(first[window], distance))
        first[window] = nearer
    return first, second


def _extents(parts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last row, and first and last column, of each part: (K + 1, 2) each."""
    found = []
    for axis, positions in enumerate(np.indices(parts.shape)):
        extent = np.empty((int(parts.max(initial=0)) + 1, 2), np.int64)
        extent[:] = parts.shape[axis], -1
        np.minimum.at(extent[:, 0], parts.ravel(), positions.ravel())
        np.maximum.at(extent[:, 1], parts.ravel(), positions.ravel())
        found.append(extent)
    return found[0], found[1]


def _distance(inside: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """Euclidean distance to the set, along the rows first and then across them."""
    squared = np.where(inside, np.float32(0), np.float32(np.inf))
    for axis in (1, 0):
        nearest = squared.copy()
        for step in range(1, min(reach, inside.shape[axis] - 1) + 1):
            for here, there in ((slice(step, None), slice(None, -step)), (slice(None, -step), slice(step, None))):
                target, source = (here, there) if axis == 0 else ((slice(None), here), (slice(None), there))
                np.minimum(nearest[target], squared[source] + step**2, out=nearest[target])
        squared = nearest
    squared[squared > reach**2] = np.inf
    return np.sqrt(squared)
