import numpy as np
import pytest

from convatlas.report.series import MAX_POINTS, smooth, thin


@pytest.mark.parametrize("count", [0, 1, 2, MAX_POINTS])
def test_short_curves_are_kept_whole(count: int) -> None:
    assert thin(np.zeros(count)).tolist() == list(range(count))


@pytest.mark.parametrize("count", [MAX_POINTS + 1, 3 * MAX_POINTS, 250_000])
def test_long_curves_are_bounded_and_keep_ends_spikes_and_gaps(count: int) -> None:
    values = np.sin(np.arange(count) / 50)
    values[count // 3] = 40.0
    values[count // 2] = -40.0
    values[count // 5] = np.nan
    values[count // 7] = np.inf
    kept = thin(values)
    assert len(kept) <= MAX_POINTS
    assert (np.diff(kept) > 0).all()
    assert {0, count // 3, count // 2, count // 5, count // 7, count - 1} <= set(kept.tolist())


def test_a_curve_of_gaps_alone_is_thinned_too() -> None:
    assert 0 < len(thin(np.full(10_000, np.nan))) <= MAX_POINTS


def test_smoothing_keeps_a_constant_and_quiets_noise() -> None:
    assert smooth(np.full(500, 3.0)) == pytest.approx(3.0)
    noise = np.random.default_rng(0).normal(size=5_000)
    assert smooth(noise).std() < 0.2 * noise.std()


def test_smoothing_leaves_short_curves_and_gaps_alone() -> None:
    short = np.array([1.0, 5.0, 2.0])
    assert smooth(short).tolist() == [1.0, 5.0, 2.0]
    values = np.ones(400)
    values[100], values[200] = np.nan, np.inf
    smoothed = smooth(values)
    assert np.isnan(smoothed[100])
    assert np.isinf(smoothed[200])
    assert np.delete(smoothed, [100, 200]) == pytest.approx(1.0)
