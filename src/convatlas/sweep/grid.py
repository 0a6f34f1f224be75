"""Every point of a grid, each once."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from convatlas.sweep.space import Parameter, Space


class Grid(BaseSampler):
    """Trial number N is point N of the grid.

    So a point is neither lost nor taken twice, whichever workers ask at one time; Optuna's own grid looks for a point
    that nobody has taken yet, and two workers may find the same.

    Args:
        space: The sweep's: ``${space}``.
    """

    def __init__(self, space: Mapping[str, Parameter]) -> None:
        self.points = Space(space).grid()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: parameters are looked up one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parameter's value at the trial's point."""
        return self.points[trial.number][param_name]
