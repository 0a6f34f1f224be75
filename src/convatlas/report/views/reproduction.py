"""Compare two records of the same run value by value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from convatlas.record.reader import RunRecord, number

CLOCK = frozenset({"time", "train/images_per_second", "train/data_wait"})
"""Entries that differ between two equal runs."""
PLACE = frozenset({"step", "epoch"})
"""Entries that are the position of a line."""

ReproductionVerdict = Literal["bit-identical", "within tolerance", "different"]
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A value that differs from the recorded one.

    Attributes:
        step: The optimizer step after which it was logged; 0 is before the first.
        metric: Its name.
        recorded: The recorded value, or None if it is absent.
        found: The value of the reproduction, or None if it is absent.
        relative: ``|a - b| / max(|a|, |b|)``; infinite if one is absent or not finite.
    """

    step: int
    metric: str
    recorded: Any
    found: Any
    relative: float

    def __str__(self) -> str:
        far = f" (relative difference {self.relative:.2g})" if self.relative < float("inf") else ""
        return f"{self.metric} recorded {self.recorded}, now {self.found}{far}"


@dataclass(frozen=True)
class RecordComparison:
    """The result of a comparison of two records.

    Attributes:
        values: Number of compared values.
        first: The first difference beyond the tolerance.
        largest: The largest difference of all.
    """

    values: int
    first: Difference | None
    largest: Difference | None

    def verdict(self, equal_weights: bool | None) -> ReproductionVerdict:
        """The verdict on the reproduction.

        Args:
            equal_weights: Whether the weights of the best epoch are bit-identical; None if they were not kept.
        """
        if self.first is not None:
            return "different"
        return "bit-identical" if self.largest is None and equal_weights is not False else "within tolerance"

    def sentence(self, verdict: ReproductionVerdict) -> str:
        """The verdict as text, with the value that decides it."""
        if self.first is not None:
            return f"{verdict} from step {self.first.step}: {self.first}"
        if self.largest is not None:
            return f"{verdict}: the largest difference is at step {self.largest.step}: {self.largest}"
        if verdict == "bit-identical":
            return verdict
        return f"{verdict}: every value is equal, but the best checkpoint's weights are not"


def compare_runs(
    recorded: RunRecord, found: RunRecord, curves: Sequence[Sequence[Line]], tolerance: float
) -> RecordComparison:
    """Compare two runs: the state before the first step if both recorded it, the curves and the final metrics.

    Args:
        recorded: The recorded run, finished.
        found: Its reproduction, finished.
        curves: The lines of their ``metrics.jsonl``.
        tolerance: As in ``compare_records``.
    """
    sides = (recorded, found)
    starts = [side.provenance.get("start", {}) for side in sides]
    known = [name for name in starts[0] if name in starts[1]]
    before, after = (
        [
            {"step": 0, **{name: start[name] for name in known}},
            *lines,
            {"step": side.summary["steps"], **{f"final {name}": value for name, value in side.results.items()}},
        ]
        for side, start, lines in zip(sides, starts, curves, strict=True)
    )
    return compare_records(before, after, tolerance)


def compare_records(recorded: Iterable[Line], found: Iterable[Line], tolerance: float) -> RecordComparison:
    """Compare every value of two records, except clock times, by step and metric.

    Args:
        recorded: The lines of ``metrics.jsonl``; any further values as lines with their step.
        found: The lines of the reproduction.
        tolerance: The largest relative difference that counts as equal; 0 requires identical values.
    """
    before, after = _values(recorded), _values(found)
    steps = sorted(before | after, key=lambda place: place[0])  # stable: within a step as they were logged
    differences = [
        Difference(*place, before.get(place), after.get(place), _relative(before.get(place), after.get(place)))
        for place in steps
        if before.get(place) != after.get(place)
    ]
    return RecordComparison(
        values=len(steps),
        first=next((difference for difference in differences if difference.relative > tolerance), None),
        largest=max(differences, key=lambda difference: difference.relative, default=None),
    )


def _values(lines: Iterable[Line]) -> dict[tuple[int, str], Any]:
    return {(line["step"], name): value for line in lines for name, value in line.items() if name not in CLOCK | PLACE}


def _relative(recorded: Any, found: Any) -> float:
    before, after = number(recorded), number(found)
    if before is None or after is None:
        return float("inf")
    return abs(before - after) / max(abs(before), abs(after))
