"""The design of a study: the keys of ``conf/study/*.yaml``, checked before anything runs."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from convatlas.errors import UserError
from convatlas.record.groups import short_key, value_text
from convatlas.record.quantities import quantity

CLOSED = ConfigDict(extra="forbid")
Setting = bool | int | float | str
Block = tuple[int, ...]
"""The seeds of a figure: one seed, or the seeds of the members of an ensemble."""


@dataclass(frozen=True, config=CLOSED)
class Arm:
    """One of the compared settings.

    Attributes:
        label: Its name in tables and figures.
        overrides: Its overrides of ``train``. Arms with the same overrides share their runs.
        evaluate: Overrides of ``evaluate``, which is applied to the finished runs and gives the figures; None: the
            figures are those of the training.
        members: Number of runs with different seeds that are evaluated as one ensemble.
    """

    label: str
    overrides: list[str] = field(default_factory=list)
    evaluate: list[str] | None = None
    members: PositiveInt = 1

    @property
    def evaluated(self) -> bool:
        """Whether its figures come from separate evaluations."""
        return self.evaluate is not None or self.members > 1


@dataclass(frozen=True, config=CLOSED)
class Factor:
    """A key that varies within each arm.

    Attributes:
        key: A key of ``train``, such as ``optimizer.learning_rate``.
        values: Its values.
        select: ``best`` compares each arm at its best value; ``each`` compares the arms at every value.
    """

    key: str
    values: list[Setting]
    select: Literal["best", "each"]


@dataclass(frozen=True, config=CLOSED)
class Direction:
    """An expectation: which of two arms should be better, and the source that says so."""

    better: str
    worse: str
    source: str


@dataclass(frozen=True, config=CLOSED)
class PublishedValue:
    """A figure of the paper, in the unit of the metric. It is shown beside the result and not judged."""

    arm: str
    value: float
    source: str


@dataclass(frozen=True)
class Cell:
    """An arm at one value of the factor, if there is a factor."""

    arm: str
    value: Setting | None = None


@dataclass(frozen=True, config=CLOSED)
class Study:
    """A study: one question, answered by comparing arms on the same seeds.

    Attributes:
        name: Name of its folder.
        question: The question.
        arms: The compared settings by a short name.
        seeds: The seeds of each arm. Figures of the same seed are paired.
        metric: A metric of the record (``train/top1``) or of the reported split (``test/top1``).
        overrides: Overrides of ``train`` for all arms.
        factor: A key that varies within each arm.
        statistic: The figure of a run: the metric's last value, its best one, or the epochs until it first reaches
            ``threshold``.
        threshold: The value to reach.
        mode: Whether a larger or a smaller value of the metric is better.
        expect: The expectations.
        published: Figures of the paper.

    Raises:
        UserError: Two keys contradict each other.
    """

    name: str
    question: str
    arms: dict[str, Arm]
    seeds: list[NonNegativeInt]
    metric: str
    overrides: list[str] = field(default_factory=list)
    factor: Factor | None = None
    statistic: Literal["final", "best", "epochs_to_reach"] = "final"
    threshold: float | None = None
    mode: Literal["max", "min"] = "max"
    expect: list[Direction] = field(default_factory=list)
    published: list[PublishedValue] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.-]+", self.name):
            raise UserError(f"study.name={self.name}: expected letters, digits, _ . and -, as it names a folder")
        if not re.fullmatch(r"(train|val|test)/\S+", self.metric):
            raise UserError(f"study.metric={self.metric}: expected train/…, val/… or test/…, such as test/top1")
        if not self.arms:
            raise UserError("study.arms: expected at least one")
        for key, items in (("seeds", self.seeds), ("factor.values", self.factor.values if self.factor else [0])):
            if not items or len(set(items)) < len(items):
                raise UserError(f"study.{key}={items}: expected at least one, each once")
        if (self.statistic == "epochs_to_reach") != (self.threshold is not None):
            raise UserError("study.threshold: expected with statistic: epochs_to_reach, and only there")
        if self.statistic == "epochs_to_reach" and self.metric.startswith("test/"):
            raise UserError(f"study.metric={self.metric}: is measured once, after training; expected train/… or val/…")
        for name, arm in self.arms.items():
            if len(self.seeds) % arm.members:
                raise UserError(
                    f"study.arms.{name}.members={arm.members}: expected seeds for whole ensembles, and there are "
                    f"{len(self.seeds)}"
                )
            if arm.evaluated and (self.statistic != "final" or self.metric.startswith("train/")):
                raise UserError(
                    f"study.arms.{name}: an evaluation has one figure of val or test; expected study.statistic=final "
                    "and such a metric"
                )
        for number, direction in enumerate(self.expect):
            self._check_arm(f"study.expect.{number}.better", direction.better)
            self._check_arm(f"study.expect.{number}.worse", direction.worse)
            sizes = sorted(self.arms[name].members for name in (direction.better, direction.worse))
            if direction.better == direction.worse or sizes[1] % sizes[0]:
                raise UserError(
                    f"study.expect.{number}: {direction.better} and {direction.worse} cannot be paired; expected two "
                    "arms, the members of one a multiple of the other's"
                )
        for number, figure in enumerate(self.published):
            self._check_arm(f"study.published.{number}.arm", figure.arm)

    def _check_arm(self, key: str, name: str) -> None:
        if name not in self.arms:
            nearest = difflib.get_close_matches(name, self.arms, n=1)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else ""
            raise UserError(f"{key}={name}: no such arm, the arms are {', '.join(self.arms)}{hint}")

    @property
    def more_is_better(self) -> bool:
        """Whether a larger figure of a run is better. For ``epochs_to_reach``, a smaller one is."""
        return self.mode == "max" and self.statistic != "epochs_to_reach"

    @property
    def cells(self) -> list[Cell]:
        """Every arm at every value of the factor."""
        values = self.factor.values if self.factor else [None]
        return [Cell(arm, value) for arm in self.arms for value in values]

    def label(self, cell: Cell) -> str:
        """The name of a cell."""
        arm = self.arms[cell.arm].label
        return f"{arm} · {self.setting_label(cell)}" if self.factor else arm

    def setting_label(self, cell: Cell) -> str:
        """The value of the factor of a cell, as text."""
        return f"{short_key(self.factor.key)} {value_text(cell.value)}" if self.factor else ""

    def blocks(self, arm: str) -> list[Block]:
        """The seeds of each figure of an arm."""
        size = self.arms[arm].members
        return [tuple(self.seeds[start : start + size]) for start in range(0, len(self.seeds), size)]


def read_study(values: Mapping[str, Any]) -> Study:
    """Check the keys of a study.

    Args:
        values: The group ``study`` of the configuration, resolved. Without ``mode``, the mode of the metric is used.

    Raises:
        UserError: A key is missing, unknown, of the wrong type, or contradicts another one; the message names it.
    """
    try:
        mode = quantity(str(values.get("metric"))).mode
        return TypeAdapter(Study).validate_python({"mode": mode, **values})
    except ValidationError as error:
        first = error.errors()[0]
        given = "" if isinstance(first["input"], dict | list) else f"={first['input']}"
        key = ".".join(str(part) for part in ("study", *first["loc"]))
        raise UserError(f"{key}{given}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
