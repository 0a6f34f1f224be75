"""The weight map of U-Net, which gives narrow gaps between two objects a larger weight in the loss."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from convatlas.data.batch import IGNORE_INDEX
from convatlas.errors import UserError

REACH = 5
"""Maximum distance in units of sigma. Beyond it, the second term is at most w0 exp(-12.5) and is set to 0."""


@dataclass(frozen=True, kw_only=True)
class BorderWeights:
    """``w(x) = w_c(x) + w0 exp(-(d1 + d2)^2 / (2 sigma^2))`` (U-Net, section 3, equation 2).

    d1 and d2 are the distances, in pixels, to the nearest and the second nearest object. Only background pixels have
    the second term. An object is an edge-connected component of one of the classes ``objects``.

    Args:
        objects: Classes whose connected components are objects.
        w0: Maximum of the second term.
        sigma: Width of the gaps with a large weight, in pixels.
        class_weights: w_c of each class, in order; None means 1 for all.
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
        table = np.ones(IGNORE_INDEX + 1, np.float32)
        if self.class_weights is not None:
            table[: len(self.class_weights)] = self.class_weights
        weights: NDArray[np.float32] = table[labels]
        inside = np.isin(labels, self.objects)
        first, second = two_nearest(components(labels, inside), reach=round(REACH * self.sigma))
        gap = np.exp(-((first + second) ** 2) / (2 * self.sigma**2))
        weights[~inside] += self.w0 * gap[~inside]
        return torch.from_numpy(weights)


def components(labels: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number the edge-connected components of equal labels from 1: (H, W), 0 outside of them."""
    parts = np.zeros(labels.shape, np.int64)
    for label in np.unique(labels[inside]):
        found, _ = ndimage.label(inside & (labels == label))
        parts[found > 0] = found[found > 0] + parts.max()
    return parts


def two_nearest(parts: NDArray[np.int64], reach: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the distances in pixels to the nearest and second nearest part, each (H, W); inf beyond ``reach``."""
    first = np.full(parts.shape, np.inf, np.float32)
    second = first.copy()
    for number, extent in enumerate(ndimage.find_objects(parts), start=1):
        window = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in extent)
        distance = ndimage.distance_transform_edt(parts[window] != number).astype(np.float32)
        distance[distance > reach] = np.inf
        nearer = np.minimum(first[window], distance)
        second[window] = np.minimum(second[window], np.maximum(first[window], distance))
        first[window] = nearer
    return first, second
