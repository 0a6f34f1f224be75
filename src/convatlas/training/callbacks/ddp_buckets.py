"""Gradients of several ranks, added up in one and the same order from the first step on."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from convatlas.training.callbacks.resume_state import metric_states, random_state, restore_metrics, restore_random_state


class SettledBuckets(Callback):
    """Lets DDP lay out its buckets before the first step after a start.

    DDP sends gradients in buckets, and lays them out anew after its first backward pass, in the order in which they
    were ready (Li et al. 2020, section 4.2). With more than two ranks the place of a number in its bucket decides in
    which order the ranks' values are added: a run that starts again would add those of one step in another order than
    the run that was left alone. So the first batch is computed once more, beforehand, and leaves no trace.
    """

    def __init__(self) -> None:
        self._settled = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Compute gradients of the first batch and throw them away."""
        if self._settled or trainer.world_size == 1:
            return
        self._settled = True
        random, metrics = random_state(), metric_states(pl_module)
        buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
        pl_module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        trainer.strategy.training_step(batch).backward()  # type: ignore[union-attr]
        del pl_module.log  # the class's own again
        pl_module.zero_grad()
        with torch.no_grad():
            for name, buffer in pl_module.named_buffers():
                buffer.copy_(buffers[name])
        restore_metrics(pl_module, metrics)
        restore_random_state(random)
