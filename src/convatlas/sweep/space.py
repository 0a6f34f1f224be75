"""The search space of a sweep: named parameters, each a key of ``convatlas train``, and the sampler of a grid."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import BaseTrial, FrozenTrial
from pydantic import PositiveFloat, PositiveInt

from convatlas.errors import UserError

Value = str | int | float | bool | None
Values = dict[str, Value]
"""The value of each active parameter, by name."""


@dataclass(frozen=True, kw_only=True)
class Parameter(ABC):
    """A parameter of the search space.

    Args:
        key: A key or a group of ``convatlas train``: ``optimizer.learning_rate``, ``model``.
        when: The parameter is active only if the named other parameters have this value, or one of these values.
    """

    key: str
    when: Mapping[str, Value | list[Value]] | None = None

    @property
    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """The Optuna distribution; raises ``ValueError`` if the bounds are invalid."""

    @abstractmethod
    def suggest(self, trial: BaseTrial, name: str) -> Value:
        """Draw its value in a trial."""

    @abstractmethod
    def ends(self) -> Sequence[Value]:
        """Every choice, or the two bounds."""

    @abstractmethod
    def grid(self) -> Sequence[Value]:
        """The values of a grid; raises ``ValueError`` if their number is not given."""

    def active(self, values: Mapping[str, Value]) -> bool:
        """Whether it is active with these values of the other parameters."""
        wanted = {name: value if isinstance(value, list) else [value] for name, value in (self.when or {}).items()}
        return all(name in values and values[name] in allowed for name, allowed in wanted.items())


@dataclass(frozen=True, kw_only=True)
class Float(Parameter):
    """A number between two bounds.

    Args:
        low: The lower bound, included.
        high: The upper bound, included.
        log: Sample the logarithm, for example for learning rates.
        step: Only low, low + step, low + 2 step …
        points: For a grid without step: the number of evenly spaced values from low to high.
    """

    low: float
    high: float
    log: bool = False
    step: PositiveFloat | None = None
    points: PositiveInt | None = None

    @property
    def distribution(self) -> FloatDistribution:
        """The Optuna distribution."""
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        """Draw its value in a trial."""
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def ends(self) -> Sequence[Value]:
        """The two bounds."""
        return [self.low, self.high]

    def grid(self) -> Sequence[Value]:
        """Evenly spaced values, on a logarithmic scale with ``log``."""
        if self.step is not None:
            count = int((self.high - self.low) / self.step * (1 + 1e-12)) + 1
            return [round(self.low + number * self.step, 12) for number in range(count)]
        if self.points is None:
            raise ValueError("a grid needs step or points")
        spaced = np.geomspace if self.log else np.linspace
        return [float(f"{value:.6g}") for value in spaced(self.low, self.high, self.points)]


@dataclass(frozen=True, kw_only=True)
class Int(Parameter):
    """A whole number between two bounds.

    Args:
        low: The lower bound, included.
        high: The upper bound, included.
        log: Sample the logarithm.
        step: Only low, low + step, low + 2 step …
    """

    low: int
    high: int
    log: bool = False
    step: PositiveInt = 1

    @property
    def distribution(self) -> IntDistribution:
        """The Optuna distribution."""
        return IntDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        """Draw its value in a trial."""
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)

    def ends(self) -> Sequence[Value]:
        """The two bounds."""
        return [self.low, self.high]

    def grid(self) -> Sequence[Value]:
        """Every value."""
        return list(range(self.low, self.high + 1, self.step))


@dataclass(frozen=True, kw_only=True)
class Choice(Parameter):
    """One of several values, or of several options of a group.

    Args:
        values: Values as on the command line: 0.1, true, null, resnet18, "[0.5,0.75]".
    """

    values: Sequence[Value]

    @property
    def distribution(self) -> CategoricalDistribution:
        """The Optuna distribution."""
        return CategoricalDistribution(list(self.values))

    def suggest(self, trial: BaseTrial, name: str) -> Value:
        """Draw its value in a trial."""
        value: Value = trial.suggest_categorical(name, list(self.values))
        return value

    def ends(self) -> Sequence[Value]:
        """Every choice."""
        return self.values

    def grid(self) -> Sequence[Value]:
        """Every choice."""
        return self.values


class Space:
    """The parameters of a sweep, in the order of its file.

    Args:
        parameters: The parameters by name; one that depends on others comes after them.
        is_group: Whether a key is a group of the configuration, whose value decides which other keys exist.

    Raises:
        UserError: A parameter is invalid; the message names it.
    """

    def __init__(
        self, parameters: Mapping[str, Parameter], is_group: Callable[[str], bool] = lambda key: False
    ) -> None:
        self.parameters = dict(parameters)
        if not self.parameters:
            raise UserError("space: expected at least one parameter")
        choices: dict[str, Choice] = {}
        for name, parameter in self.parameters.items():
            try:
                _ = parameter.distribution
            except ValueError as error:
                raise UserError(f"space.{name}: {error}") from error
            for parent, wanted in (parameter.when or {}).items():
                if parent not in choices:
                    raise UserError(f"space.{name}.when.{parent}: expected a Choice that stands above {name}")
                for value in wanted if isinstance(wanted, list) else [wanted]:
                    if value not in choices[parent].values:
                        raise UserError(f"space.{name}.when.{parent}={value}: {parent} never has this value")
            if isinstance(parameter, Choice):
                choices[name] = parameter
        depended_on = {parent for parameter in self.parameters.values() for parent in parameter.when or {}}
        groups = {name for name, parameter in self.parameters.items() if is_group(parameter.key)}
        self._pivots = depended_on | groups
        self._check_keys()

    def suggest(self, trial: BaseTrial) -> Values:
        """The values of the active parameters of a trial; values that it does not have yet are drawn."""
        values: Values = {}
        for name, parameter in self.parameters.items():
            if parameter.active(values):
                values[name] = parameter.suggest(trial, name)
        return values

    def overrides(self, values: Mapping[str, Value]) -> list[str]:
        """The values as overrides of ``convatlas train``."""
        return [f"{self.parameters[name].key}={override_text(value)}" for name, value in values.items()]

    def grid(self) -> list[Values]:
        """Every point of the grid, each once.

        Raises:
            UserError: The number of values of a parameter is not given.
        """
        options: dict[str, Sequence[Value]] = {}
        for name, parameter in self.parameters.items():
            try:
                options[name] = parameter.grid()
            except ValueError as error:
                raise UserError(f"space.{name}: {error}") from error
        return list(self._products(options))

    def corners(self) -> Iterator[Values]:
        """Points that hold each choice and each bound beside each option of the groups and of what others depend on."""
        ends = {name: parameter.ends() for name, parameter in self.parameters.items()}
        for chosen in self._products({name: ends[name] for name in self.parameters if name in self._pivots}):
            others = [name for name in ends if name not in self._pivots and self.parameters[name].active(chosen)]
            for number in range(max((len(ends[name]) for name in others), default=1)):
                values = chosen | {name: ends[name][number % len(ends[name])] for name in others}
                yield {name: values[name] for name in ends if name in values}

    def _check_keys(self) -> None:
        """Refuse two parameters of one key where both are active."""
        for values in self.corners():
            owners: dict[str, str] = {}
            for name in values:
                key = self.parameters[name].key
                if (owner := owners.setdefault(key, name)) != name:
                    raise UserError(
                        f"space.{name}.key={key}: {owner} has it too; expected when, so that one is active at a time"
                    )

    def _products(self, options: Mapping[str, Sequence[Value]]) -> Iterator[Values]:
        """All combinations of values of some parameters, with the inactive ones left out."""
        points: list[Values] = [{}]
        for name, values in options.items():
            active = self.parameters[name].active
            points = [
                {**point, **chosen}
                for point in points
                for chosen in ([{name: value} for value in values] if active(point) else [{}])
            ]
        yield from points


def override_text(value: Value) -> str:
    """A value as Hydra reads it on the command line."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


class Grid(BaseSampler):
    """Sampler of a grid: trial number N is point N.

    So each point is used exactly once, even if several workers ask at the same time. Optuna's ``GridSampler`` looks
    for a point that is not taken yet, and two workers may find the same one.

    Args:
        space: The parameters of the sweep: ``${space}``.
    """

    def __init__(self, space: Mapping[str, Parameter]) -> None:
        self.points = Space(space).grid()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return no parameters: they are looked up one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return no values."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of a parameter at the point of the trial."""
        return self.points[trial.number][param_name]
