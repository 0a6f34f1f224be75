"""An exponential moving average of the weights, which evaluation and the best checkpoint take for the network's."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ExponentialAverage(WeightAveraging):
    """Keeps the average beside the weights that are trained (Polyak and Juditsky 1992; as in torchvision and timm).

    It begins as the weights after the first step. Validation sees it, and a checkpoint has it as ``state_dict``, with
    the trained weights in ``current_model_state`` to go on from. The statistics of batch normalisation are averaged
    like the weights that made them, as both libraries do.

    Args:
        decay: What the average keeps of itself at an update.
        every_n_steps: Optimizer steps from one update to the next.
    """

    def __init__(self, decay: float, every_n_steps: int) -> None:
        super().__init__(multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
        self.every_n_steps = every_n_steps

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Whether the average follows the optimizer step that was just taken, counted from zero."""
        return step_idx is not None and step_idx % self.every_n_steps == 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the average on the device of the training, where Lightning moves the network itself only later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the network's place; batch normalisation's statistics are rank zero's, as in training."""
        if trainer.world_size > 1 and self._average_model is not None:
            for buffer in self._average_model.module.buffers():
                torch.distributed.broadcast(buffer, src=0)
        super().on_validation_epoch_start(trainer, pl_module)
