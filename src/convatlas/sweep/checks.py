"""Check the search space of a sweep against the configuration of ``train`` before anything starts."""

from collections.abc import Sequence

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig
from torch import nn

from convatlas.config.composition import check_config, compose, overridden_keys, plain
from convatlas.config.stored import TRAINING, check_stored
from convatlas.data.module import ImageDataModule
from convatlas.errors import UserError
from convatlas.sweep.objective import Objective
from convatlas.sweep.space import Space, Values
from convatlas.tasks.base import Task
from convatlas.tasks.optimization import ScheduleContext
from convatlas.training.plan import TYPES, check_metric, plan_run
from convatlas.training.trainer import world_size

OURS = ("run.root", "run.attempt", "run.fresh")
"""Keys that the sweep sets itself."""


def check_space(space: Space, train: Sequence[str], own: Sequence[str], objectives: Sequence[Objective]) -> str:
    """Compose and check trainings that together cover every choice and every bound.

    Args:
        space: The search space.
        train: Overrides that all trials share.
        own: Overrides that the sweep adds: devices and the root of the runs.
        objectives: The objectives, which every training has to measure.

    Returns:
        The run id with the first value of each parameter. It distinguishes sweeps with other shared settings or other
        images.

    Raises:
        UserError: A parameter is wrong, which the message names, or a shared setting is.
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
    metrics = [objective.metric for objective in objectives if objective.by_epoch]
    for values in space.corners():
        try:
            identity = _plan([*train, *space.overrides(values), *own], metrics, opened)
        except UserError as error:
            raise _blamed(space, values, [*train, *own], metrics, error) from error
        first = first or identity
    return str(first)


def _plan(overrides: Sequence[str], metrics: Sequence[str], opened: dict[str, ImageDataModule]) -> str:
    config = compose("train", overrides)
    check_config(config, TYPES)
    check_stored(plain(config), TRAINING, "sweep")  # as each trial will
    for metric in metrics:
        check_metric("objective.metric", metric, config)
    run, data = plan_run(config, opened)
    data.check_batch(world_size(config.trainer), config.trainer.accumulate_grad_batches)
    _check_optimizer(config, data.global_batch_size)
    return run.run_id


def _check_optimizer(config: DictConfig, global_batch_size: int) -> None:
    """Build the optimizer and its schedule for a single parameter."""
    optimizer = instantiate(config.optimizer).build([nn.Parameter(torch.zeros(1, 1))], global_batch_size)
    task: type[Task] = get_class(config.model._target_)
    instantiate(config.schedule)(optimizer, ScheduleContext(steps=1000, steps_per_epoch=100, mode=task.mode))


def _blamed(space: Space, values: Values, shared: Sequence[str], metrics: Sequence[str], error: UserError) -> UserError:
    """Add to the error the first parameter that causes it; unchanged if the shared settings alone cause it."""
    for count in range(len(values) + 1):
        some = dict(list(values.items())[:count])
        try:
            _plan([*shared, *space.overrides(some)], metrics, {})
        except UserError as earlier:
            if not some:
                return earlier
            name, value = list(some.items())[-1]
            return UserError(f"space.{name}: {space.parameters[name].key}={value}: {earlier}")
    return error
