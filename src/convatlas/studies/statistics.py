"""What the seeds say: a mean and its spread, and whether two arms differ, seed by seed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Up to this probability a difference is said to be there."""
CONFIDENCE = 0.95
WILCOXON_FROM = 6
"""Pairs from which on the signed ranks can reach ``LEVEL`` at all: of fewer, 2 / 2**n is above it."""
EQUAL = 1e-9
"""Differences that agree to this share of their size differ in nothing but rounding."""


@dataclass(frozen=True)
class PairedTest:
    """Two arms on the same seeds.

    Attributes:
        differences: First minus second, pair by pair.
        mean: Their mean.
        low: Lower end of its 95 % confidence interval by Student's t; None where there is none.
        high: Its upper end.
        p: Two-sided probability of so large a difference if there were none; None of a single pair.
        test: Where ``p`` comes from: ``t``, the paired t-test, or ``sign``, the exact sign test, where all differences
            are equal and Student's t, which divides by their deviation, says nothing.
        wilcoxon: The probability by the Wilcoxon signed-rank test, from 6 pairs on.
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
    """Adjust probabilities of several tests so that the chance of any false finding stays what it is for one.

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
