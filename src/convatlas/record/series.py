"""Store one metric of a run in bounded memory: buckets of neighbouring steps keep their mean and extremes."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

MAX_BUCKETS = 1024
"""Maximum number of buckets of a series: about the width of a figure in pixels."""
VIEWPORT = 1000
"""The width of the range of x for ``smooth``, in units of one step of decay."""


@dataclass(frozen=True)
class Series:
    """One metric over the optimizer steps of a run, in ascending buckets of ``width`` steps without the empty ones.

    Bucket k spans the steps from ``k * width`` to ``(k + 1) * width - 1``. As long as there are few enough points,
    the width is 1 and each bucket contains one value.

    Attributes:
        width: Number of steps of a bucket, a power of two.
        steps: The last logged step of each bucket, (K,) int64.
        epochs: The epoch of that step, (K,) int64.
        times: The time at which that step was logged, (K,) float64, seconds since 1970.
        counts: Number of finite values in each bucket, (K,) int64.
        sums: Sum of the finite values, (K,) float64.
        lows: Smallest finite value, (K,) float64; NaN if there is none.
        highs: Largest finite value, (K,) float64; NaN if there is none.
        gaps: Number of values that are NaN or infinite, (K,) int64.
        last: The last logged value.
        first_gap: The first step whose value is not finite, or None.
    """

    width: int
    steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    times: NDArray[np.float64]
    counts: NDArray[np.int64]
    sums: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    gaps: NDArray[np.int64]
    last: float
    first_gap: int | None

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of the finite values of each bucket, (K,) float64; NaN where there is none."""
        means = np.full(len(self.sums), np.nan)
        np.divide(self.sums, self.counts, out=means, where=self.counts > 0)
        return means

    @property
    def buckets(self) -> NDArray[np.int64]:
        """The number k of each bucket, (K,) int64."""
        return self.steps // self.width


def series_of(
    steps: NDArray[np.int64], epochs: NDArray[np.int64], times: NDArray[np.float64], values: NDArray[np.float64]
) -> Series:
    """Make a series of logged values, each in its own bucket.

    A step that is not larger than an earlier one replaces what was logged from there on. A resumed run appends such
    steps if it logs at other steps than before, because ``trainer.log_every_n_steps`` was changed.

    Args:
        steps: Optimizer steps in the order in which they were logged, (N,) int64, N ≥ 1.
        epochs: The epochs of the steps, (N,) int64.
        times: The times at which the steps were logged, (N,) float64.
        values: The values, (N,) float64; NaN and infinities are gaps.
    """
    later = np.append(np.minimum.accumulate(steps[::-1])[::-1][1:], np.iinfo(np.int64).max)
    kept = steps < later
    steps, epochs, times, values = steps[kept], epochs[kept], times[kept], values[kept]
    finite = np.isfinite(values)
    shown = np.where(finite, values, np.nan)
    return Series(
        width=1,
        steps=steps,
        epochs=epochs,
        times=times,
        counts=finite.astype(np.int64),
        sums=np.where(finite, values, 0.0),
        lows=shown,
        highs=shown,
        gaps=(~finite).astype(np.int64),
        last=float(values[-1]),
        first_gap=None if finite.all() else int(steps[~finite][0]),
    )


def join(earlier: Series, later: Series) -> Series:
    """Append a series to an earlier one, whose buckets have at least the same width.

    Buckets of the earlier series that do not begin before the later series are replaced.
    """
    begins = earlier.buckets * earlier.width
    kept = _select(earlier, begins < later.steps[0])
    parts = [kept, coarsen(later, earlier.width)]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS}
    gap = kept.first_gap if kept.first_gap is not None else later.first_gap
    return _merge(Series(width=earlier.width, **columns, last=later.last, first_gap=gap))


def bounded(series: Series, limit: int = MAX_BUCKETS) -> Series:
    """Double the width of the buckets until there are at most ``limit``."""
    width = series.width
    while np.count_nonzero(np.diff(series.steps // width)) >= limit:
        width *= 2
    return coarsen(series, width)


def coarsen(series: Series, width: int) -> Series:
    """Merge the buckets of a series into buckets of ``width`` steps, a multiple of its own width."""
    if width == series.width:
        return series
    columns = {name: getattr(series, name) for name in _COLUMNS}
    return _merge(Series(width=width, **columns, last=series.last, first_gap=series.first_gap))


def smooth(x: NDArray[np.float64], values: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Compute the exponential moving average with a decay that depends on the distances in x.

    This is W&B's "time weighted EMA" (source: "Smooth line plots" in W&B's documentation). Dense and sparse curves are
    smoothed equally. Non-finite values stay in the curve and do not enter the average.

    Args:
        x: Positions of the values, (K,) float64, ascending.
        values: The curve, (K,) float64.
        weight: Strength of the smoothing, at least 0 and below 1. 0 changes nothing.

    Returns:
        The smoothed curve, (K,) float64.
    """
    if weight == 0 or len(x) < 2 or x[-1] == x[0]:
        return values
    decays = np.sqrt(weight) ** (np.diff(x, prepend=x[0]) / (x[-1] - x[0]) * VIEWPORT)
    smoothed = values.copy()
    total = count = 0.0
    for position, (decay, value) in enumerate(zip(decays.tolist(), values.tolist(), strict=True)):
        total, count = total * decay, count * decay
        if np.isfinite(value):
            total, count = total + value, count + 1
            smoothed[position] = total / count
    return smoothed


_COLUMNS = [field.name for field in fields(Series) if field.name not in ("width", "last", "first_gap")]


def _select(series: Series, kept: NDArray[np.bool_]) -> Series:
    if kept.all():
        return series
    columns = {name: getattr(series, name)[kept] for name in _COLUMNS}
    dropped = series.steps[~kept][0]
    gap = series.first_gap if series.first_gap is not None and series.first_gap < dropped else None
    return Series(width=series.width, **columns, last=series.last, first_gap=gap)


def _merge(series: Series) -> Series:
    """Join the rows that belong to the same bucket."""
    buckets = series.buckets
    starts = np.flatnonzero(np.diff(buckets, prepend=-1))
    ends = np.append(starts[1:], len(buckets)) - 1
    if len(starts) == len(buckets):
        return series
    return Series(
        width=series.width,
        steps=series.steps[ends],
        epochs=series.epochs[ends],
        times=series.times[ends],
        counts=np.add.reduceat(series.counts, starts),
        sums=np.add.reduceat(series.sums, starts),
        lows=np.fmin.reduceat(series.lows, starts),
        highs=np.fmax.reduceat(series.highs, starts),
        gaps=np.add.reduceat(series.gaps, starts),
        last=series.last,
        first_gap=series.first_gap,
    )
