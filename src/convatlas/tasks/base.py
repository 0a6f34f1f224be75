"""The base class of the tasks: initial weights, optimizer, check of the loss."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from convatlas.config.value_types import Name
from convatlas.errors import DivergedError, UserError
from convatlas.models.base import Architecture, OnBackbone
from convatlas.models.weights import LoadedWeights, load_backbone, load_weights
from convatlas.tasks.compilation import compiled
from convatlas.tasks.initial_weights import check_initial_weights
from convatlas.tasks.interfaces import Images, Predicted
from convatlas.tasks.optimization import OptimizerConfig, Schedule, ScheduleContext


class Task(LightningModule):
    """A network with its optimizer. It logs ``train/loss`` and ``train/learning_rate`` without averaging.

    Args:
        name: Name of the architecture, which is the name of its configuration file.
        net: The network.
        weights: Initial weights: the file of a state dict, ``torchvision``, ``torchvision:NAME``, or None.
        weights_entry: The entry of a file with several sets of weights, as keys joined by dots; None means
            ``state_dict`` or ``model``.
        reset_classifier: Whether to accept weights with another number of classes and to initialise a new classifier.
        channels_last: Whether to store weights, and therefore activations, as (N, H, W, C) in memory.
        optimizer: The optimizer; None for a network that is only evaluated.
        schedule: The learning-rate schedule; None for a network that is only evaluated.
    """

    task_type: ClassVar[str]  # the data module has the same
    default_protocol: ClassVar[str]  # of evaluations without protocol=…
    monitor: ClassVar[str]  # the metric that chooses the best checkpoint
    metric_names: ClassVar[str]  # a regular expression
    mode: ClassVar[Literal["min", "max"]] = "max"

    def __init__(
        self,
        *,
        name: Name,
        net: Architecture,
        weights: str | None = None,
        weights_entry: str | None = None,
        reset_classifier: bool = False,
        channels_last: bool = False,
        optimizer: OptimizerConfig | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.net: nn.Module = net  # an evaluation may put a test protocol or an ensemble in its place
        self.num_classes = net.num_classes
        self.optimizer_config = optimizer
        self.schedule = schedule
        self.loaded: list[LoadedWeights] = []  # of the initial weights
        self.predictions: Predicted | None = None  # of the last evaluation
        if weights is not None:
            self.loaded.append(load_weights(net, weights, entry=weights_entry, reset_classifier=reset_classifier))
        elif weights_entry is not None:
            raise UserError(f"model.weights_entry={weights_entry}: expected model.weights, the file that has it")
        if channels_last:
            net.to(memory_format=torch.channels_last)
        self._compiled: Callable[[Tensor], Any] | None = None

    def load_backbone(self, backbone: Mapping[str, str | None] | None) -> None:
        """Load the file ``weights``, or its entry ``weights_entry``, into the backbone of the network.

        Raises:
            UserError: An entry is given without a file, or the weights do not fit.
        """
        source, entry = ((backbone or {}).get(key) for key in ("weights", "weights_entry"))
        if source is not None:
            self.loaded.append(load_backbone(cast(OnBackbone, self.net), source, entry=entry))
        elif entry is not None:
            raise UserError(f"model.backbone.weights_entry={entry}: expected model.backbone.weights, the file")

    def compile_net(self) -> None:
        """Compile the network for training steps. Evaluation uses the network without compilation."""
        if self.optimizer_config is not None:
            self._compiled = compiled(self.net)  # a function, so that names in checkpoints do not change

    def output(self, batch: Any) -> Any:
        """Return the output of the network for a training batch."""
        return self.net(batch.images) if self._compiled is None else self._compiled(batch.images)

    @abstractmethod
    def loss(self, output: Any, batch: Any) -> Tensor:
        """Compute the training loss of the network's output for a batch, a scalar."""

    def check_data(self, data: Images) -> None:
        """Raise a ``UserError`` for data of another task type or for images that the network does not accept.

        Warn if the preprocessing of the images differs from that of the initial weights.
        """
        if data.task_type != self.task_type:
            raise UserError(
                f"data={data.name} is for {data.task_type}, model={self.name} for {self.task_type}; expected both for "
                "one"
            )
        if self.loaded:
            check_initial_weights(cast(Architecture, self.net), self.loaded, data)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its schedule."""
        if self.optimizer_config is None or self.schedule is None:
            raise ValueError("a task without optimizer and schedule cannot be trained")
        global_batch_size = self.trainer.datamodule.global_batch_size  # type: ignore[attr-defined]
        optimizer = self.optimizer_config.build(self.net.parameters(), global_batch_size)
        steps = int(self.trainer.estimated_stepping_batches)
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        schedule = self.schedule(
            optimizer, ScheduleContext(steps=steps, steps_per_epoch=steps_per_epoch, mode=self.mode)
        )
        interval = "epoch" if isinstance(schedule, ReduceLROnPlateau) else "step"
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": interval, "monitor": self.monitor},
        }

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: Any) -> None:
        """Step a schedule after an optimizer step. ``on_validation_end`` steps a schedule that follows a metric."""
        if metric is None:
            scheduler.step()

    def on_validation_end(self) -> None:
        """Step a schedule that follows a metric before the checkpoint is written; Lightning would do it afterwards."""
        for config in self.trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau):
                config.scheduler.step(self.trainer.callback_metrics[self.monitor])

    def log_step(self, loss: Tensor, parts: Mapping[str, Tensor] | None = None) -> None:
        """Log a training step, with the terms of its loss, and check at log steps whether the loss is finite."""
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check_finite(loss)
            self.log("train/loss", loss, sync_dist=True)  # only at log steps, because the ranks wait for each other
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log_dict(dict(parts or {}), sync_dist=True)
        self.last_loss = loss.detach()

    def on_train_epoch_end(self) -> None:
        """Check that the last step's loss is finite."""
        self._check_finite(self.last_loss)

    def _check_finite(self, loss: Tensor) -> None:
        # Not at every step, because reading the value synchronises with the GPU.
        if not torch.isfinite(loss):
            raise DivergedError(
                f"train/loss is {loss.item()} at step {self.global_step}: training diverged; "
                "lower optimizer.learning_rate or set trainer.gradient_clip_val"
            )
