"""Reduce the gradients of several ranks in the same order from the first step on."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from convatlas.training.callbacks.resume_state import metric_states, random_state, restore_metrics, restore_random_state


class DeterministicBuckets(Callback):
    """Makes DDP rebuild its buckets before the first step after a start.

    DDP reduces gradients in buckets. It rebuilds the buckets after the first backward pass, in the order in which the
    gradients were ready (Li et al. 2020, section 4.2). With more than two ranks, the position of a value in its bucket
    determines the order in which the values of the ranks are added. A resumed run would therefore add the gradients of
    its first step in a different order than an uninterrupted run. To avoid this, the first batch is computed once
    before the first step, and its effects are undone.
    """

    def __init__(self) -> None:
        self._settled = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Compute the gradients of the first batch and discard them."""
        if self._settled or trainer.world_size == 1:
            return
        self._settled = True
        random, metrics = random_state(), metric_states(pl_module)
        buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}
        pl_module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        trainer.strategy.training_step(batch).backward()  # type: ignore[union-attr]
        del pl_module.log  # restores the method of the class
        pl_module.zero_grad()
        with torch.no_grad():
            for name, buffer in pl_module.named_buffers():
                buffer.copy_(buffers[name])
        restore_metrics(pl_module, metrics)
        restore_random_state(random)
