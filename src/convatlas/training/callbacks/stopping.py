"""Stop a run at a place where the same command can continue it."""

import sys
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from convatlas.training.trainer import is_lost_rank, rank_lost
from convatlas.utils.distributed import is_rank_zero
from convatlas.utils.signals import STOP_SIGNALS, Preempted, StopFlag


class StopSignals(Callback):
    """Ends the run after SIGTERM or SIGUSR1.

    In training, the current step is finished and ``RunCheckpoints`` saves ``last`` first. Validation and test have
    nothing new to save: a rank that received a signal skips its remaining batches, and all ranks end together where
    they would reduce their metrics.

    Attributes:
        flag: The signals that this rank has received.
        stopped: Whether the run was stopped.
    """

    def __init__(self) -> None:
        self.flag = StopFlag(STOP_SIGNALS)
        self.stopped = False

    def leave_together(self) -> None:
        """Wait until rank zero has recorded the end: a launcher kills the other ranks soon after the first exits."""
        if self.stopped and torch.distributed.is_initialized():
            torch.distributed.barrier()

    def outcome(self, error: BaseException) -> BaseException:
        """Explain an exception that ended the run.

        Returns:
            ``Preempted`` if this rank received a signal, and Lightning or a rank that stopped earlier then raised the
            exception; ``RankLostError`` if another rank is gone; otherwise the exception itself.
        """
        lost = is_lost_rank(error)
        if self.flag.received and (lost or isinstance(error, SystemExit)):
            return Preempted(self.flag.received[-1].name)
        if lost:
            return rank_lost(error)
        return error

    def agreed(self, trainer: Trainer) -> bool:
        """Whether any rank has received a signal; every rank must call this."""
        return trainer.strategy.reduce_boolean_decision(bool(self.flag.received), all=False)

    def stop(self) -> None:
        """End the run.

        Raises:
            Preempted: Always.
        """
        self.stopped = True
        name = self.flag.received[-1].name if self.flag.received else "another rank"
        if is_rank_zero():
            sys.stderr.write(f"convatlas: stopped by {name}; the same command resumes the run\n")
        raise Preempted(name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Handle the signals from now on; before, a rank may wait for others that never come, and a signal ends it."""
        self.flag.listen()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Skip the remaining batches after a signal."""
        self._skip_rest()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if any rank has received a signal."""
        if self.agreed(trainer):
            self.stop()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Skip the remaining batches after a signal."""
        self._skip_rest()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if any rank has received a signal."""
        if self.agreed(trainer):
            self.stop()

    def _skip_rest(self) -> None:
        if self.flag.received:
            raise StopIteration  # Lightning's evaluation loop treats this as the end of the data
