"""An exponential moving average of the weights, which evaluation and the best checkpoint use."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from convatlas.training.lightning_internals import average_model, set_average_device

STATE_KEY = "ExponentialAverage"


class EMA(WeightAveraging):
    """Keeps an average of the trained weights (Polyak and Juditsky 1992), as torchvision and timm do.

    The average starts as the weights after the first step. Validation uses it. A checkpoint stores it as
    ``state_dict``, and the trained weights as ``current_model_state``. The statistics of batch normalisation are
    averaged like the weights, as both libraries do.

    Args:
        decay: Weight of the old average in an update.
        every_n_steps: Number of optimizer steps between two updates.
    """

    def __init__(self, decay: float, every_n_steps: int) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.every_n_steps = every_n_steps

    @property
    def state_key(self) -> str:
        """Key of the callback's state in checkpoints: its former class name, so that older checkpoints load."""
        return STATE_KEY

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether to update the average after this optimizer step, counted from zero."""
        return step_idx is not None and step_idx % self.every_n_steps == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Create the average on the training device; Lightning moves the network there only later."""
        set_average_device(self, trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the average in validation, with rank zero's statistics of batch normalisation, as in training."""
        average = average_model(self)
        if trainer.world_size > 1 and average is not None:
            for buffer in average.module.buffers():
                torch.distributed.broadcast(buffer, src=0)
        super().on_validation_epoch_start(trainer, pl_module)
