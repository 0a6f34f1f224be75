"""Paired tests of two arms over seeds, and Holm's correction for several tests."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Significance level: a difference with a smaller p is a finding."""
CONFIDENCE = 0.95
WILCOXON_FROM = 6
"""Fewest pairs with which the signed-rank test can reach ``LEVEL``: its smallest p is 2 / 2**n."""
EQUAL = 1e-9
"""Relative tolerance below which differences are rounding errors."""


@dataclass(frozen=True)
class PairedTest:
    """The paired test of two arms on the same seeds.

    Attributes:
        differences: First minus second, pair by pair.
        mean: Their mean.
        low: Lower end of its 95 % confidence interval by Student's t; None if there is none.
        high: Its upper end.
        p: Two-sided p-value; None for a single pair.
        test: The test of ``p``: ``t``, the paired t-test, or ``sign``, the exact sign test, if all differences are
            equal. Student's t divides by their deviation and is not defined then.
        wilcoxon: The p-value of the Wilcoxon signed-rank test, from 6 pairs on.
    """

    differences: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None
    p: float | None
    test: Literal["t", "sign"] | None
    wilcoxon: float | None


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Compare two arms on the same seeds.

    Args:
        first: The figures of one arm, at least one.
        second: Those of the other, in the same order of seeds.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    mean, size = statistics.fmean(differences), len(differences)
    if size == 1:
        return PairedTest(tuple(differences), mean, None, None, None, None, None)
    signed = [difference for difference in differences if abs(difference) > EQUAL * _scale(first, second)]
    wilcoxon = None
    if size >= WILCOXON_FROM:
        wilcoxon = float(stats.wilcoxon(signed).pvalue) if signed else 1.0
    if np.ptp(differences) <= EQUAL * _scale(first, second):
        above = sum(difference > 0 for difference in signed)
        p = float(stats.binomtest(above, len(signed)).pvalue) if signed else 1.0
        return PairedTest(tuple(differences), mean, None, None, p, "sign", wilcoxon)
    found = stats.ttest_rel(first, second)
    low, high = found.confidence_interval(CONFIDENCE)
    return PairedTest(tuple(differences), mean, float(low), float(high), float(found.pvalue), "t", wilcoxon)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests with Holm's method, which controls the family-wise error rate.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(probabilities)), key=lambda position: probabilities[position])
    adjusted, largest = [0.0] * len(order), 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * probabilities[position]))
        adjusted[position] = largest
    return adjusted


def _scale(first: Sequence[float], second: Sequence[float]) -> float:
    return max(math.fabs(value) for value in (*first, *second))
