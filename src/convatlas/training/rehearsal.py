"""Check that training can resume from a checkpoint by loading each of its parts into a new object."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig
from pytorch_lightning.utilities.migration.utils import migrate_checkpoint
from torch import Tensor

from convatlas.data.module import ImageDataModule
from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.weights import TRAINED, check_fit
from convatlas.tasks.base import Task
from convatlas.tasks.optimization import OptimizerConfig, Schedule, ScheduleContext
from convatlas.training.callbacks.checkpointing import STATE_KEY, recorded_bytes
from convatlas.training.callbacks.ema import STATE_KEY as EMA_KEY
from convatlas.training.callbacks.resume_state import KEY as PROCESS_STATES
from convatlas.training.callbacks.resume_state import metric_states
from convatlas.training.checkpoint_io import KEY, read_run_checkpoint
from convatlas.training.trainer import build_trainer

AVERAGE: Mapping[str, Any] = {
    "averaging_state": {"n_averaged": torch.tensor(0)},
    "callbacks": {EMA_KEY: {"latest_update_step": 0}},
}
"""Additional entries of a checkpoint with averaged weights."""
POSITION = {"epoch": 0, "batches": 0}
"""The state of a data loader."""
COURSE = ScheduleContext(steps=10**6, steps_per_epoch=10**3)
"""A length of training that every schedule accepts; the checkpoint replaces it."""


class Rehearsal:
    """Loads checkpoints on trial, before a run writes anything.

    Otherwise Lightning would find a part that does not fit in the middle of the start, or PyTorch at the first step.

    Args:
        trainer: The configuration of the trainer.
        task: The task of the run; it is not changed.
        data: The data of the run.

    Raises:
        UserError: The trainer refuses a setting.
    """

    def __init__(self, trainer: DictConfig, task: Task, data: ImageDataModule) -> None:
        self._trainer = build_trainer(trainer, logger=False, enable_checkpointing=False)
        self._loops = self._trainer.fit_loop.state_dict()
        self._task = task
        self._data = data

    def read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint of the run from which training can resume.

        Raises:
            UserError: As in ``read_run_checkpoint``; a part does not have the form of a checkpoint of this run.
        """
        checkpoint = read_run_checkpoint(path)
        where = f"checkpoint={path}"
        try:
            for weights in ("state_dict", TRAINED):
                if weights in checkpoint:
                    found = {name.removeprefix("net."): value for name, value in checkpoint[weights].items()}
                    check_fit(cast(Architecture, self._task.net), f"{where}: {weights}", found)
            self._load({**checkpoint})
        except UserError:
            raise
        except Exception as error:  # wrong content may raise anything in the libraries
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"{where}: damaged: training cannot resume from it ({reason})") from error
        return checkpoint

    def _load(self, checkpoint: dict[str, Any]) -> None:
        """Load all parts except the weights; any exception may be raised."""
        if checkpoint[KEY]["config"]["trainer"]["log_every_n_steps"] <= 0:
            raise ValueError("config.trainer.log_every_n_steps: expected a positive number")
        best = checkpoint["callbacks"][STATE_KEY]["best_value"]
        compare_form(best, None if best is None else 0.0, f"callbacks.{STATE_KEY}.best_value")
        compare_form(recorded_bytes(checkpoint), 0, f"callbacks.{STATE_KEY}.record_bytes")
        if TRAINED in checkpoint:
            compare_form(checkpoint, AVERAGE, "average")
        migrate_checkpoint(checkpoint)
        (optimizer_state,), (schedule_state,) = checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
        recipe = cast(OptimizerConfig, self._task.optimizer_config)
        optimizer = recipe.build(self._task.net.parameters(), self._data.global_batch_size)
        schedule = cast(Schedule, self._task.schedule)(optimizer, COURSE)
        load_on_trial(optimizer, optimizer.state_dict(), optimizer_state, "optimizer_states")
        check_moments(optimizer)
        load_on_trial(schedule, schedule.state_dict(), schedule_state, "lr_schedulers")
        load_on_trial(self._trainer.fit_loop, self._loops, checkpoint["loops"]["fit_loop"], "loops")
        step, epochs = self._trainer.global_step, vars(self._trainer.fit_loop.epoch_progress.current)["processed"]
        if step != checkpoint["global_step"]:
            raise ValueError(f"loops are at step {step}, global_step is {checkpoint['global_step']}")
        if max(epochs, self._trainer.current_epoch) > cast(int, self._trainer.max_epochs):
            raise ValueError(f"loops: more epochs are over than trainer.max_epochs={self._trainer.max_epochs}")
        loaders = checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", [POSITION])
        compare_form(loaders, [POSITION], "loops.state_dict.combined_loader")
        metrics = metric_states(self._task)
        states = checkpoint[PROCESS_STATES]
        if not isinstance(states, list) or not states:
            raise ValueError(f"{PROCESS_STATES}: expected one for each rank")
        for state in states:
            _check_process(state, metrics)


def compare_form(found: Any, expected: Any, where: str) -> None:
    """Compare the keys, types and shapes of containers and tensors, but not their numbers.

    Args:
        found: The content of a file, which may have additional keys.
        expected: The state of a new object; strings and None must be equal.
        where: The part, for the message.

    Raises:
        ValueError: Naming the first place that differs.
    """
    fits = type(found) is type(expected)
    if isinstance(expected, Tensor):
        fits = isinstance(found, Tensor) and found.shape == expected.shape
    elif isinstance(expected, float):
        fits = isinstance(found, int | float)
    elif isinstance(expected, str):
        fits = found == expected
    elif isinstance(expected, dict) and fits:
        for key, value in expected.items():
            if key not in found:
                raise ValueError(f"{where}.{key} is missing")
            compare_form(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list | tuple) and fits:
        fits = len(found) == len(expected)
        for number, (item, value) in enumerate(zip(found, expected, strict=False)):
            compare_form(item, value, f"{where}.{number}")
    if not fits:
        raise ValueError(f"{where}: expected {_kind(expected)}, found {_kind(found)}")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, str):
        return repr(value[:40])
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | tuple) else type(value).__name__


def load_on_trial(target: Any, form: dict[str, Any], state: Any, where: str) -> None:
    """Load a state into an object and compare the resulting state with that of a new object.

    Args:
        target: A new object with ``state_dict`` and ``load_state_dict``.
        form: Its ``state_dict`` when it was new.
        state: The state from a file.
        where: The part of the file, for the message.

    Raises:
        ValueError: As in ``compare_form``; the object itself may raise any exception.
    """
    _check_filled(state, form, where)
    target.load_state_dict(state)
    compare_form(target.state_dict(), form, where)


def _check_filled(state: Any, form: dict[str, Any], where: str) -> None:
    """Refuse an empty or missing mapping, which many objects load silently; older versions lack some keys."""
    if form and (not isinstance(state, dict) or not state):
        raise ValueError(f"{where}: expected {', '.join(map(str, form))}, found {_kind(state)}")
    for key, inner in form.items():
        if isinstance(inner, dict) and key in state:
            _check_filled(state[key], inner, f"{where}.{key}")


def check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Check the shapes of an optimizer's state against its parameters; Adafactor keeps a row and a column.

    Raises:
        ValueError: A state has another shape, is neither a tensor nor a number, or belongs to no parameter.
    """
    for parameter, state in optimizer.state.items():
        if not isinstance(parameter, Tensor):
            raise ValueError(f"optimizer_states: state of {parameter!r}, which is no parameter")
        shape = parameter.shape
        factors = ((*shape[:-1], 1), (*shape[:-2], 1, *shape[-1:])) if len(shape) > 1 else ()
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape not in (shape, (), *factors):
                raise ValueError(f"optimizer_states: {name} is {_kind(value)}, its parameter {_kind(parameter)}")
            plain = (value is None and name == "momentum_buffer") or (name == "step" and isinstance(value, int | float))
            if not (plain or isinstance(value, Tensor)):
                raise ValueError(f"optimizer_states: {name}: expected a tensor, found {_kind(value)}")


def _check_process(state: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> None:
    """Load the random states of a rank into new generators, and compare the form of the rest."""
    random.Random().setstate(state["random"]["python"])
    np.random.RandomState().set_state(state["random"]["numpy"])
    torch.Generator().set_state(state["random"]["torch"])
    compare_form(state["loader"], POSITION, f"{PROCESS_STATES}.loader")
    expected = {name: metrics[name] for name in state["metrics"]}
    compare_form(state["metrics"], expected, f"{PROCESS_STATES}.metrics")
