"""The space of a sweep against the configuration of ``train``, before anything starts."""

from collections.abc import Sequence

from convatlas.config import check_config, compose, overridden_keys
from convatlas.data.image_data import ImageDataModule
from convatlas.errors import UserError
from convatlas.planning import TYPES, plan_run
from convatlas.run.environment import world_size
from convatlas.sweep.space import Space

OURS = ("run.root", "run.attempt", "run.fresh")
"""What the sweep says itself."""


def check_space(space: Space, train: Sequence[str], own: Sequence[str]) -> str:
    """Compose and check trainings that have every choice and every bound.

    Args:
        space: What is varied.
        train: Overrides that all trials share.
        own: Those that the sweep adds: devices, where runs go.

    Returns:
        The name of the run with the first value of each parameter, which tells sweeps with other shared settings or
        images apart.

    Raises:
        UserError: Naming the parameter; or, without, a mistake in what all trials share.
    """
    given = overridden_keys([*train, *own])
    for key in OURS:
        if key in overridden_keys(train):
            raise UserError(f"{key}: leave it out; root=… says where the sweep and its runs are")
    for name, parameter in space.parameters.items():
        if parameter.key in given or parameter.key.startswith("run."):
            raise UserError(f"space.{name}.key={parameter.key}: expected a key that is not set otherwise")
    opened: dict[str, ImageDataModule] = {}
    first = None
    for values in space.corners():
        try:
            identity = _plan([*train, *space.overrides(values), *own], opened)
        except UserError as error:
            raise _blamed(space, values, [*train, *own], error) from error
        first = first or identity
    return str(first)


def _plan(overrides: Sequence[str], opened: dict[str, ImageDataModule]) -> str:
    config = compose("train", overrides)
    check_config(config, TYPES)
    run, data = plan_run(config, opened)
    data.check_batch(world_size(config.trainer), config.trainer.accumulate_grad_batches)
    return run.run_id


def _blamed(
    space: Space, values: dict[str, str | int | float | bool | None], shared: list[str], error: UserError
) -> UserError:
    """The error with the first parameter from which on it comes; as it is, if it comes without any."""
    for count in range(len(values) + 1):
        some = dict(list(values.items())[:count])
        try:
            _plan([*shared, *space.overrides(some)], {})
        except UserError as earlier:
            if not some:
                return earlier
            name, value = list(some.items())[-1]
            return UserError(f"space.{name}: {space.parameters[name].key}={value}: {earlier}")
    return error
