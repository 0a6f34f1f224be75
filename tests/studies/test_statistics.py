import math

import pytest
from scipy import stats

from convatlas.studies.statistics import holm, paired_test


def test_the_paired_test_is_students_on_the_differences() -> None:
    found = paired_test([5.0, 7.0, 6.0], [4.0, 4.0, 4.0])  # 1, 3, 2: mean 2, deviation 1
    assert found.differences == (1.0, 3.0, 2.0)
    assert found.mean == 2.0
    statistic = 2 / (1 / math.sqrt(3))
    assert found.p == pytest.approx(2 * stats.t.sf(statistic, df=2))
    assert found.test == "t"
    half = 4.302652729911275 / math.sqrt(3)  # Student's 97.5 % point of two degrees of freedom
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.wilcoxon is None


def test_six_pairs_have_a_signed_rank_test_too() -> None:
    first = [1.0, 2.5, 3.1, 4.7, 5.2, 6.9]
    found = paired_test(first, [0.0] * 6)
    assert found.wilcoxon == pytest.approx(2 / 2**6)  # all of one sign: the smallest there is
    assert paired_test(first[:5], [0.0] * 5).wilcoxon is None


@pytest.mark.parametrize(("count", "p"), [(2, 0.5), (3, 0.25), (6, 0.03125)])
def test_equal_differences_are_judged_by_their_signs(count: int, p: float) -> None:
    second = [0.1 * place for place in range(count)]
    found = paired_test([value + 0.3 for value in second], second)  # equal but for rounding: Student's p would be 0
    assert (found.test, found.low) == ("sign", None)
    assert found.p == pytest.approx(p)


def test_arms_that_are_equal_do_not_differ() -> None:
    found = paired_test([0.5] * 6, [0.5] * 6)
    assert (found.p, found.wilcoxon, found.mean) == (1.0, 1.0, 0.0)


def test_one_pair_is_no_test() -> None:
    found = paired_test([0.9], [0.5])
    assert found.mean == pytest.approx(0.4)
    assert (found.p, found.test, found.low) == (None, None, None)


def test_p_values_adjusted_by_holm_are_in_the_same_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
