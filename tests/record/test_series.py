import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from convatlas.record.series import MAX_BUCKETS, Series, bounded, coarsen, join, series_of, smooth


def made(values: NDArray[np.float64], first_step: int = 0, every: int = 1) -> Series:
    steps = first_step + every * np.arange(len(values))
    return series_of(steps, steps // 100, steps.astype(np.float64), values)


@pytest.mark.parametrize("count", [1, 2, MAX_BUCKETS])
def test_short_series_are_kept_whole(count: int) -> None:
    values = np.arange(count, dtype=np.float64)
    series = bounded(made(values, every=7))
    assert series.width == 1
    assert series.means.tolist() == series.lows.tolist() == series.highs.tolist() == values.tolist()


@pytest.mark.parametrize("count", [MAX_BUCKETS + 1, 3 * MAX_BUCKETS, 250_000])
def test_long_series_are_bounded_and_keep_extremes_means_gaps_and_the_end(count: int) -> None:
    values = np.sin(np.arange(count) / 50)
    values[count // 3], values[count // 2] = 40.0, -40.0
    values[count // 5], values[count // 7] = np.nan, np.inf
    series = bounded(made(values))
    assert MAX_BUCKETS // 2 < len(series.steps) <= MAX_BUCKETS
    assert (np.diff(series.buckets) == 1).all()
    assert [np.nanmin(series.lows), np.nanmax(series.highs)] == [-40, 40]
    assert series.highs.argmax() == count // 3 // series.width
    assert (series.counts.sum(), series.gaps.sum()) == (count - 2, 2)
    assert series.first_gap == count // 7
    assert series.sums.sum() == pytest.approx(values[np.isfinite(values)].sum())
    assert series.steps[-1] == count - 1
    assert series.last == values[-1]


def test_a_bucket_of_gaps_alone_has_no_mean() -> None:
    series = coarsen(made(np.array([1.0, 3.0, np.nan, np.nan])), 2)
    assert series.means.tolist()[0] == 2
    assert np.isnan(series.means[1])
    assert np.isnan(series.lows[1])


@pytest.mark.parametrize("cuts", [[50_000], [1, 2, 3, 1000, 99_999]])
def test_a_series_read_in_parts_is_the_series_read_at_once(cuts: list[int]) -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    whole = bounded(made(values))
    edges = [0, *cuts, len(values)]
    parts = [made(values[a:b], first_step=a) for a, b in itertools.pairwise(edges)]
    series = parts[0]
    for part in parts[1:]:
        series = bounded(join(series, part))
    assert series.width == whole.width
    for column in ("steps", "epochs", "counts", "lows", "highs"):
        assert getattr(series, column).tolist() == getattr(whole, column).tolist()
    assert series.means == pytest.approx(whole.means)


def test_steps_logged_again_replace_what_was_logged_from_there_on() -> None:
    steps = np.array([1, 2, 3, 2, 3, 4])
    values = np.array([1.0, np.nan, 3.0, 20.0, 30.0, 40.0])
    series = series_of(steps, steps, steps.astype(float), values)
    assert series.steps.tolist() == [1, 2, 3, 4]
    assert series.means.tolist() == [1, 20, 30, 40]
    assert series.first_gap is None
    again = join(series, made(np.array([7.0, 8.0]), first_step=3))
    assert again.means.tolist() == [1, 20, 7, 8]


def test_smoothing_keeps_a_constant_and_quiets_noise() -> None:
    x = np.arange(5_000.0)
    assert smooth(x, np.full(5_000, 3.0), 0.9) == pytest.approx(3.0)
    noise = np.random.default_rng(0).normal(size=5_000)
    assert smooth(x, noise, 0.9).std() < 0.2 * noise.std()
    assert smooth(x, noise, 0.0) is noise


def test_smoothing_does_not_depend_on_how_many_points_a_curve_has() -> None:
    dense, sparse = np.linspace(0, 1, 4_001), np.linspace(0, 1, 1_001)
    step = [smooth(x, (x > 0.5).astype(float), 0.9)[-1 - len(x) // 4] for x in (dense, sparse)]
    assert step[0] == pytest.approx(step[1], abs=0.01)


def test_smoothing_leaves_gaps_and_forgets_nothing_over_them() -> None:
    values = np.ones(400)
    values[100], values[200] = np.nan, np.inf
    smoothed = smooth(np.arange(400.0), values, 0.9)
    assert np.isnan(smoothed[100])
    assert np.isinf(smoothed[200])
    assert np.delete(smoothed, [100, 200]) == pytest.approx(1.0)
