"""How ranks decide together at a step without waiting for each other, or for the GPU."""

from datetime import timedelta
from typing import Any

import torch
from pytorch_lightning import Trainer


class Agreement:
    """Whether any rank wants something, known to all ranks at the same step: with several, one step later.

    The question travels between the CPUs while the next step is computed. Asking the GPUs, as Lightning's
    ``reduce_boolean_decision`` does, would make every step wait until the one before is computed.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self._answer: torch.Tensor | None = None
        self._work: torch.distributed.Work | None = None

    def open(self, trainer: Trainer) -> None:
        """Connect the CPUs of all ranks; every rank must call this."""
        if trainer.world_size > 1:
            timeout: timedelta | None = getattr(trainer.strategy, "_timeout", None)
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    def reached(self, wanted: bool) -> bool:
        """Ask with this rank's wish, and hear whether any rank wished it when all asked the last time."""
        if self._group is None:
            return wanted
        answer = self._hear()
        self._answer = torch.tensor(int(wanted))
        self._work = torch.distributed.all_reduce(
            self._answer, torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return answer

    def forget(self) -> None:
        """Drop the last question: what was wished for has happened."""
        self._hear()

    def _hear(self) -> bool:
        if self._work is None or self._answer is None:
            return False
        self._work.wait()
        self._work = None
        return bool(self._answer.item())
