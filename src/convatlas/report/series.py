"""Thin and smooth long curves without hiding what happened in them."""

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 2000
"""Points that a curve keeps: more than a screen has pixels across."""
SMOOTHED_FROM = 100
"""Points from which on a curve is smoothed."""


def thin(values: NDArray[np.float64], limit: int = MAX_POINTS) -> NDArray[np.int64]:
    """Choose at most ``limit`` points of a curve so that its extremes stay.

    The curve is cut into equal stretches; each keeps its smallest and its largest finite value, and one
    non-finite value if it has any, so that a single spike or gap among a million steps is still seen. The
    first and the last point always stay. A curve of up to ``limit`` points is kept whole.

    Args:
        values: The curve, (N,) float64.
        limit: Upper bound of the points kept, at least 5.

    Returns:
        Positions to keep, (K,) int64, ascending, K ≤ ``limit``.
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    kept = {0, count - 1}
    for stretch in np.array_split(np.arange(count), (limit - 2) // 3):
        finite = np.isfinite(values[stretch])
        inside = stretch[finite]
        if len(inside):
            kept.add(int(inside[values[inside].argmin()]))
            kept.add(int(inside[values[inside].argmax()]))
        if not finite.all():
            kept.add(int(stretch[~finite][0]))
    return np.array(sorted(kept), dtype=np.int64)


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred moving mean over about a fiftieth of the curve; non-finite values stay and count for nothing.

    Args:
        values: The curve, (N,) float64.

    Returns:
        The smoothed curve, (N,) float64; the same values if the curve has fewer than ``SMOOTHED_FROM`` points.
    """
    count = len(values)
    radius = count // SMOOTHED_FROM
    finite = np.isfinite(values)
    sums = np.concatenate(([0.0], np.where(finite, values, 0.0).cumsum()))
    counts = np.concatenate(([0], finite.cumsum()))
    first = np.maximum(np.arange(count) - radius, 0)
    last = np.minimum(np.arange(count) + radius + 1, count)
    means = (sums[last] - sums[first]) / np.maximum(counts[last] - counts[first], 1)
    return np.where(finite, means, values)
