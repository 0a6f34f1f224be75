"""Compare the results of runs with the figures that a recipe expects."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from convatlas.record.groups import Group, Statistic
from convatlas.record.quantities import lower_is_better

ExpectationVerdict = Literal["as expected", "better", "worse", "", "no result yet"]


@dataclass(frozen=True)
class Expectation:
    """A figure that a recipe declares under ``expected:``, its own or a paper's. It does not change the run id.

    Attributes:
        metric: A metric of the reported split, such as ``test/top1``, in the metric's own unit: 0.9 is 90 %.
        value: The expected value.
        source: Where the figure comes from: a paper's table, or the runs that it was measured on.
        tolerance: Largest accepted distance of the mean over the seeds; None: the figure is shown but not judged.
    """

    metric: str
    value: float
    source: str
    tolerance: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True)
class Comparison:
    """An expectation and the result of a group of runs.

    Attributes:
        group: The runs.
        expectation: The expected figure.
        found: The result, or None if there is none yet.
        verdict: Whether the mean lies within the tolerance, or on which side of it.
    """

    group: Group
    expectation: Expectation
    found: Statistic | None
    verdict: ExpectationVerdict

    @property
    def met(self) -> bool:
        """Whether the result is as expected or better. An expectation without a tolerance is always met."""
        return self.expectation.tolerance is None or self.verdict in ("as expected", "better")

    def as_dict(self) -> dict[str, Any]:
        """The expectation's entries, ``found`` (mean, deviation, count) and ``verdict``."""
        found = None if self.found is None else asdict(self.found)
        return {**asdict(self.expectation), "found": found, "verdict": self.verdict}


def compare(groups: Sequence[Group]) -> list[Comparison]:
    """Compare every expectation that the configurations of the groups declare with the result."""
    return [
        row
        for group in groups
        for row in judge(group, [Expectation(**entry) for entry in group.runs[0].config.get("expected") or ()])
    ]


def judge(group: Group, expected: Sequence[Expectation]) -> list[Comparison]:
    """Compare expectations with the result of a group."""
    rows = [(expectation, group.statistic(expectation.metric)) for expectation in expected]
    return [Comparison(group, expectation, found, _verdict(expectation, found)) for expectation, found in rows]


def _verdict(expectation: Expectation, found: Statistic | None) -> ExpectationVerdict:
    if found is None:
        return "no result yet"
    if expectation.tolerance is None:
        return ""
    difference = found.mean - expectation.value
    if abs(difference) <= expectation.tolerance:
        return "as expected"
    return "worse" if (difference < 0) != lower_is_better(expectation.metric) else "better"
