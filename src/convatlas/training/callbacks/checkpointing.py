"""Save checkpoints: ``best`` at the end of an epoch, ``last`` at the end of and within an epoch."""

import math
import time
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from convatlas.record.directory import RunDirectory
from convatlas.training.agreement import RankVote
from convatlas.training.callbacks.stopping import StopSignals
from convatlas.utils.files import sync_directory, writing

STATE_KEY = "RunCheckpoints"


def recorded_bytes(checkpoint: dict[str, Any]) -> int:
    """Size of the record in bytes when a checkpoint was written; 0 for checkpoints without this entry."""
    size: int = checkpoint.get("callbacks", {}).get(STATE_KEY, {}).get("record_bytes", 0)
    return size


class RunCheckpoints(Checkpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and, until the run is finished, the ``previous.ckpt`` before it.

    A new ``last`` is written as ``pending.ckpt`` and renamed when the next step begins. Lightning logs the metrics of
    a step after the callbacks. Without the delay, a kill between the two would leave a checkpoint of a step that the
    record lacks. The record is synced to the disk before the renaming.

    Args:
        run: The run's directory.
        monitor: The metric that selects ``best``, once an epoch.
        mode: Whether a larger or a smaller value is better.
        minutes: Longest time between two checkpoints within an epoch.
        steps: Number of optimizer steps between two checkpoints, or None.
        stop: Requests a checkpoint and the end of the run.
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
        self._vote = RankVote()

    @property
    def state_key(self) -> str:
        """Key of the callback's state in checkpoints."""
        return STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, and the size of the record, which must not be shorter at a resume."""
        record_bytes = self.run.metrics.stat().st_size if self.run.metrics.is_file() else 0
        return {"best_value": self.best_value, "record_bytes": record_bytes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self.best_value = state_dict["best_value"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved_at = time.monotonic()
        self._vote.open(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Commit the checkpoint of the previous step, whose metrics are now recorded."""
        self._commit_or_stop(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save ``last`` if it is due and training can resume exactly here."""
        done = batch_idx + 1
        if (
            done % trainer.accumulate_grad_batches  # accumulated gradients are not saved
            or trainer.is_last_batch  # Lightning would resume with the next epoch, without validation
            or (
                trainer.val_check_batch and done % trainer.val_check_batch == 0
            )  # and after a validation within the epoch likewise
        ):
            return
        wanted = time.monotonic() - self._saved_at >= self.seconds or bool(self.stop.flag.received)
        due = self._vote.reached(wanted)
        if due or (self.steps is not None and trainer.global_step % self.steps == 0):
            self._save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save ``best`` if the metric has improved, and ``last``."""
        if self.monitor in trainer.callback_metrics:
            value = float(trainer.callback_metrics[self.monitor])
            if self._is_best(value):
                self.best_value = value
                trainer.save_checkpoint(self.run.best, weights_only=False)
        self._save_last(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Commit the checkpoint of the previous epoch, whose metrics are now recorded."""
        self._commit_or_stop(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Commit the checkpoint of the last epoch."""
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
        self._vote.forget()

    def _commit_or_stop(self, trainer: Trainer) -> None:
        self._commit(trainer)
        if self._stopping:
            self.stop.stop()

    def _commit(self, trainer: Trainer) -> None:
        if self._is_pending and trainer.is_global_zero:
            self.run.sync_record()  # after a power cut, the record must not lack steps of the checkpoint
            with writing(self.run.last):
                if self.run.last.is_file():
                    self.run.last.replace(self.run.previous)
                self._pending.replace(self.run.last)
                sync_directory(self.run.checkpoints)
        self._is_pending = False
