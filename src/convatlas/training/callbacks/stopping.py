"""How a run ends when it is told to: SLURM sends USR1 ahead of the time limit and TERM on preemption."""

import signal
import sys
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from convatlas.training.trainer import is_lost_rank, rank_lost
from convatlas.utils.distributed import is_rank_zero
from convatlas.utils.signals import STOP_SIGNALS, release_stop_signals

EXIT_STATUS = 75
"""What a run exits with that was told to stop and goes on by the same command: sysexits' "temporary failure"."""


class Preempted(SystemExit):
    """The run was told to stop, and did."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(EXIT_STATUS)
        self.signal_name = signal_name

    def __str__(self) -> str:
        return self.signal_name


class StopSignals(Callback):
    """Remembers SIGTERM and SIGUSR1, and ends the run where it can go on from.

    While training, the step is finished and ``RunCheckpoints`` writes ``last`` before. In validation and in the test
    there is nothing new to save: a rank that was told to stop leaves out the batches that are left, and all end where
    they would have added up their results.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.stopped = False
        self._before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def listen(self) -> None:
        """Handle the signals."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)

    def leave_together(self) -> None:
        """Wait for rank zero to write down the end: a launcher kills the others soon after the first has left."""
        if self.stopped and torch.distributed.is_initialized():
            torch.distributed.barrier()

    def outcome(self, error: BaseException) -> BaseException:
        """What an exception that ended the run means.

        Returns:
            ``Preempted`` where the run was told to stop and Lightning, or a rank that was quicker, ended it on the way;
            ``RankLostError`` where another rank is gone; else the exception itself.
        """
        lost = is_lost_rank(error)
        if self.received is not None and (lost or isinstance(error, SystemExit)):
            return Preempted(self.received.name)
        if lost:
            return rank_lost(error)
        return error

    def restore(self) -> None:
        """Stop listening: a command ignores the signals until its exit, a caller in Python gets its handlers back."""
        release_stop_signals(self._before)

    def agreed(self, trainer: Trainer) -> bool:
        """Whether any rank was told to stop; every rank must ask."""
        return trainer.strategy.reduce_boolean_decision(self.received is not None, all=False)

    def stop(self) -> None:
        """End the run.

        Raises:
            Preempted: Always.
        """
        self.stopped = True
        name = "another rank" if self.received is None else self.received.name
        if is_rank_zero():
            sys.stderr.write(f"convatlas: stopped by {name}; the same command goes on with the run\n")
        raise Preempted(name)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen from here on; before, a rank may wait for others that never come, and the signal ends it."""
        self.listen()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Leave out the rest if told to stop."""
        self._skip_rest()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if a rank was told to."""
        if self.agreed(trainer):
            self.stop()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Leave out the rest if told to stop."""
        self._skip_rest()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if a rank was told to."""
        if self.agreed(trainer):
            self.stop()

    def _skip_rest(self) -> None:
        if self.received is not None:
            raise StopIteration  # which Lightning's evaluation takes for the end of the data

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
