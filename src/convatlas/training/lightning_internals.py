"""The private attributes of Lightning that training uses, each checked before it is used."""

from datetime import timedelta

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.strategies import DDPStrategy
from torch.optim.swa_utils import AveragedModel

from convatlas.utils.internals import private

SUPPORTED = "pytorch-lightning>=2.6,<2.7"


def disable_signal_handlers(trainer: Trainer) -> None:
    """Keep Lightning from handling signals.

    Its handlers wait for other ranks within the handler, and it asks all ranks about SIGTERM at every step.
    """
    connector, loop = private(trainer, "_signal_connector", SUPPORTED), trainer.fit_loop.epoch_loop
    for owner, name in ((connector, "register_signal_handlers"), (loop, "_broadcast_sigterm_tensor")):
        private(owner, name, SUPPORTED)
        setattr(owner, name, lambda: None)


def process_group_timeout(trainer: Trainer) -> timedelta | None:
    """How long a rank may keep the others waiting; None is PyTorch's default, for strategies other than DDP."""
    if not isinstance(trainer.strategy, DDPStrategy):
        return None
    timeout: timedelta | None = private(trainer.strategy, "_timeout", SUPPORTED)
    return timeout


def set_average_device(callback: WeightAveraging, device: torch.device) -> None:
    """Choose the device of the averaged weights; Lightning moves the network there only after it has copied it."""
    private(callback, "_device", SUPPORTED)
    callback._device = device


def average_model(callback: WeightAveraging) -> AveragedModel | None:
    """The averaged weights of a callback; None before ``setup``."""
    average: AveragedModel | None = private(callback, "_average_model", SUPPORTED)
    return average
