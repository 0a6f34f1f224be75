"""The outcome of a study: the figures of every cell, and a verdict on each expectation."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from convatlas.studies.design import Block, Cell, Direction, Setting, Study
from convatlas.studies.statistics import LEVEL, PairedTest, holm, paired_test
from convatlas.studies.values import Value

StudyVerdict = Literal[
    "as expected",
    "opposite",
    "not distinguishable",
    "right direction, one seed",
    "wrong direction, one seed",
    "no result yet",
]


@dataclass(frozen=True)
class Result:
    """The figures of a cell.

    Attributes:
        cell: The cell.
        label: The name of the cell.
        values: The figures of the cell by their seeds.
        expected: Number of figures of the cell in the complete study.
        chosen: Whether the arm is compared at this cell; false if another value of the factor is better for the arm.
    """

    cell: Cell
    label: str
    values: Mapping[Block, Value]
    expected: int
    chosen: bool

    @property
    def numbers(self) -> list[float]:
        """The figures as numbers."""
        return [value.value for value in self.values.values()]

    @property
    def mean(self) -> float | None:
        """The mean of the figures. It is a lower bound if a threshold was not always reached."""
        return statistics.fmean(self.numbers) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the figures (N - 1)."""
        return statistics.stdev(self.numbers) if len(self.values) > 1 else None

    @property
    def reached(self) -> int:
        """Number of figures that reached the threshold; all if there is no threshold."""
        return sum(value.reached for value in self.values.values())


@dataclass(frozen=True)
class ArmComparison:
    """The comparison of two arms that an expectation asks for.

    Attributes:
        direction: The expectation.
        better: Result of the cell that should be better.
        worse: Result of the other cell.
        setting: The value of the factor in both cells, if the arms are compared at each value.
        test: The paired test, better minus worse; None without a common seed.
        adjusted: ``test.p`` after Holm's correction for all comparisons of the study.
        verdict: The verdict.
    """

    direction: Direction
    better: Result
    worse: Result
    setting: Setting | None
    test: PairedTest | None
    adjusted: float | None
    verdict: StudyVerdict


@dataclass(frozen=True)
class StudyOutcome:
    """The outcome of a study.

    Attributes:
        study: The study.
        results: Every cell, in the order of the study.
        findings: Every expectation, at every value of the factor if the study compares at each.
    """

    study: Study
    results: list[Result]
    findings: list[ArmComparison]


def judge(study: Study, values: Mapping[Cell, Mapping[Block, Value]]) -> StudyOutcome:
    """Compare the arms and give a verdict on every expectation.

    Args:
        study: The study.
        values: The available figures of each cell.
    """
    results = [
        Result(cell, study.label(cell), values[cell], len(study.blocks(cell.arm)), chosen=True) for cell in study.cells
    ]
    if study.factor is not None and study.factor.select == "best":
        best = {arm: _best(study, [result for result in results if result.cell.arm == arm]) for arm in study.arms}
        results = [replace(result, chosen=result.cell == best[result.cell.arm]) for result in results]
    findings = []
    for direction in study.expect:
        for setting in study.factor.values if study.factor is not None and study.factor.select == "each" else [None]:
            better, worse = (
                next(r for r in results if r.chosen and r.cell.arm == arm and setting in (None, r.cell.value))
                for arm in (direction.better, direction.worse)
            )
            findings.append(
                ArmComparison(direction, better, worse, setting, _compare(better, worse), None, "no result yet")
            )
    tested = {number: f.test.p for number, f in enumerate(findings) if f.test and f.test.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    findings = [
        replace(finding, adjusted=adjusted.get(number), verdict=_verdict(study, finding.test, adjusted.get(number)))
        for number, finding in enumerate(findings)
    ]
    return StudyOutcome(study, results, findings)


def _best(study: Study, results: Sequence[Result]) -> Cell:
    """Return the cell with the best mean among those with the most figures.

    Cells with fewer figures are less reliable, because some of their seeds diverged.
    """
    most = max(len(result.values) for result in results)
    complete = [result for result in results if len(result.values) == most]
    sign = 1 if study.more_is_better else -1
    return max(complete, key=lambda result: sign * (result.mean or 0.0)).cell


def _compare(better: Result, worse: Result) -> PairedTest | None:
    """Compare the figures of two arms in pairs with the same seed.

    The figure of an ensemble is paired with the mean of the other arm's figures for the same seeds. If some run did
    not reach the threshold, epochs are capped at the smallest number of epochs of such a run. The difference is then
    one of restricted means (Royston and Parmar 2013).
    """
    large, small = sorted((better, worse), key=lambda result: -max(map(len, result.values), default=1))
    both = [*better.values.values(), *worse.values.values()]
    bound = min((value.value for value in both if not value.reached), default=math.inf)
    pairs = []
    for block, value in large.values.items():
        within = {seeds: other for seeds, other in small.values.items() if set(seeds) <= set(block)}
        if sum(map(len, within)) == len(block):
            mean = statistics.fmean(min(other.value, bound) for other in within.values())
            pairs.append((min(value.value, bound), mean))
    if not pairs:
        return None
    of_large, of_small = zip(*pairs, strict=True)
    return paired_test(of_large, of_small) if large is better else paired_test(of_small, of_large)


def _verdict(study: Study, test: PairedTest | None, adjusted: float | None) -> StudyVerdict:
    if test is None:
        return "no result yet"
    right = (test.mean > 0) == study.more_is_better
    if test.mean == 0:
        return "not distinguishable"
    if adjusted is None:
        return "right direction, one seed" if right else "wrong direction, one seed"
    if adjusted >= LEVEL:
        return "not distinguishable"
    return "as expected" if right else "opposite"
