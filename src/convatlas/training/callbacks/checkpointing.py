"""When a run saves itself: ``best`` at the end of an epoch, ``last`` there and within it."""

import math
import time
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from convatlas.record.directory import RunDirectory
from convatlas.training.agreement import Agreement
from convatlas.training.callbacks.stopping import StopSignals
from convatlas.utils.files import sync_directory, writing


def recorded_bytes(checkpoint: dict[str, Any]) -> int:
    """The size of the record when a checkpoint was written; 0 where the checkpoint is older than this entry."""
    size: int = checkpoint.get("callbacks", {}).get(RunCheckpoints.__qualname__, {}).get("record_bytes", 0)
    return size


class RunCheckpoints(Checkpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and, until the run is finished, the ``previous.ckpt`` before it.

    A new ``last`` is written as ``pending.ckpt`` and takes its name when the next step begins. Lightning records a
    step's metrics only after the callbacks, so that a kill between the two would leave a checkpoint whose own line
    the record lacks. The record is on the disk before.

    Args:
        run: Where to write.
        monitor: The metric that ``best`` is best by, once an epoch.
        mode: Whether more or less of it is better.
        minutes: Longest time between two checkpoints within an epoch.
        steps: Number of optimizer steps between two, or None.
        stop: Says when to save and end at once.
    """

    def __init__(
        self,
        run: RunDirectory,
        monitor: str,
        mode: Literal["min", "max"],
        minutes: float,
        steps: int | None,
        stop: StopSignals,
    ) -> None:
        self.run = run
        self.monitor = monitor
        self.mode = mode
        self.seconds = 60 * minutes
        self.steps = steps
        self.stop = stop
        self.best_value: float | None = None
        self._pending = run.checkpoints / "pending.ckpt"
        self._is_pending = False
        self._stopping = False
        self._saved_at = 0.0
        self._agreement = Agreement()

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and how far the record has come: it is never to be shorter."""
        record_bytes = self.run.metrics.stat().st_size if self.run.metrics.is_file() else 0
        return {"best_value": self.best_value, "record_bytes": record_bytes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.best_value = state_dict["best_value"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()
        self._agreement.open(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The step before is recorded."""
        self._commit_or_stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save ``last`` when it is time and this is a place where training can go on exactly."""
        done = batch_idx + 1
        if (
            done % trainer.accumulate_grad_batches  # gradients of half a step are not saved
            or trainer.is_last_batch  # Lightning would go on with the next epoch, without validation
            or (
                trainer.val_check_batch and done % trainer.val_check_batch == 0
            )  # and after a validation within the epoch likewise
        ):
            return
        wanted = time.monotonic() - self._saved_at >= self.seconds or bool(self.stop.flag.received)
        due = self._agreement.reached(wanted)
        if due or (self.steps is not None and trainer.global_step % self.steps == 0):
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save ``best`` if it is the best, and ``last``."""
        if self.monitor in trainer.callback_metrics:
            value = float(trainer.callback_metrics[self.monitor])
            if self._is_best(value):
                self.best_value = value
                trainer.save_checkpoint(self.run.best, weights_only=False)
        self._save_last(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch before is recorded."""
        self._commit_or_stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last epoch is recorded."""
        self._commit(trainer)

    def _is_best(self, value: float) -> bool:
        if self.best_value is None or math.isnan(self.best_value):
            return True
        return value > self.best_value if self.mode == "max" else value < self.best_value

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._pending, weights_only=False)
        self._is_pending = True
        self._stopping = self.stop.agreed(trainer)
        self._saved_at = time.monotonic()
        self._agreement.forget()

    def _commit_or_stop(self, trainer: Trainer) -> None:
        self._commit(trainer)
        if self._stopping:
            self.stop.stop()

    def _commit(self, trainer: Trainer) -> None:
        if self._is_pending and trainer.is_global_zero:
            self.run.sync_record()  # or a power cut would leave a record that lacks steps of the checkpoint
            with writing(self.run.last):
                if self.run.last.is_file():
                    self.run.last.replace(self.run.previous)
                self._pending.replace(self.run.last)
                sync_directory(self.run.checkpoints)
        self._is_pending = False
