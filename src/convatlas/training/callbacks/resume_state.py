"""The state that lets a run resume in mid-epoch and end bit-identical to an uninterrupted one."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torchmetrics import Metric

from convatlas.errors import UserError

KEY = "process_states"
"""Key of a checkpoint that holds the states, one for each rank."""


class ResumeState(Callback):
    """Saves and restores each rank's random number generators, its position in the data, and its metrics.

    Dropout uses the generators of the process. The data do not, see ``data/loader.py``.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the states of all ranks to a checkpoint before it is written."""
        # At the end of an epoch the metrics have been logged, and the next epoch resets them.
        metrics = {} if trainer.is_last_batch else metric_states(pl_module)
        loader = trainer.train_dataloader.state_dict()  # type: ignore[union-attr]
        own = {"random": random_state(), "metrics": metrics, "loader": loader}
        states: list[Any] = [own]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, own)
        checkpoint[KEY] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts, because building the trainer may draw random numbers."""
        self._loaded = checkpoint[KEY]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this rank's state.

        Raises:
            UserError: The ranks have read different checkpoints.
        """
        steps: list[Any] = [trainer.global_step]
        if trainer.world_size > 1:
            steps = [None] * trainer.world_size
            torch.distributed.all_gather_object(steps, trainer.global_step)
        if len(set(steps)) > 1:
            raise UserError(
                f"run.root: the ranks have read checkpoints of the steps {steps}; is it on a disk that all nodes share?"
            )
        if self._loaded:
            # Lightning restores a loader only if it builds it after it has read the checkpoint; here it has built it
            # before, to count the steps of the schedule. All ranks are at the same position.
            trainer.train_dataloader.load_state_dict(self._loaded[0]["loader"])  # type: ignore[union-attr]
        if len(self._loaded) == trainer.world_size:
            state = self._loaded[trainer.global_rank]
            restore_random_state(state["random"])
            restore_metrics(pl_module, state["metrics"])
        elif self._loaded:
            rank_zero_warn(
                f"the run was stopped with {len(self._loaded)} ranks and resumes with {trainer.world_size}: dropout "
                "draws other numbers, and this epoch's training metrics cover the rest of it alone"
            )
        self._loaded = []


def random_state() -> dict[str, Any]:
    """The states of the generators of Python, NumPy and PyTorch, as plain containers."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (name, [int(key) for key in keys], position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore the generators from the result of ``random_state``."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def metric_states(module: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """The accumulated state of each metric of a module, by the name of the metric."""
    return {
        name: {key: value.clone() for key, value in metric.metric_state.items() if isinstance(value, torch.Tensor)}
        for name, metric in module.named_modules()
        if isinstance(metric, Metric)
    }


def restore_metrics(module: torch.nn.Module, states: dict[str, dict[str, Any]]) -> None:
    """Restore the metrics of a module from the result of ``metric_states``."""
    for name, state in states.items():
        metric = module.get_submodule(name)
        for key, value in state.items():
            setattr(metric, key, value.to(getattr(metric, key).device))
