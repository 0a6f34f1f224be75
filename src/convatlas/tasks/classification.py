"""Image classification: cross-entropy, top-1 and top-5 accuracy."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from convatlas.data.batch import Batch, ViewBatch
from convatlas.errors import UserError
from convatlas.models.classifier import Classifier
from convatlas.models.outputs import ClassifierOutput
from convatlas.models.weights import load_weights
from convatlas.tasks.optimization import OptimizerRecipe, Schedule
from convatlas.tasks.predictions import Predictions


class ClassificationTask(LightningModule):
    """A classification network with its loss, metrics and optimizer.

    Logs ``train/loss`` and ``train/learning_rate`` as they come, ``train/top1`` once an epoch, and ``loss``, ``top1``
    and ``top5`` of the split that is evaluated, each sample counted once.

    Args:
        name: The architecture, as its configuration file is called.
        net: The network.
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016, section 7).
        auxiliary_weight: Weight of each auxiliary head's loss (GoogLeNet, section 5).
        weights: What to start from: a state dict's file, ``torchvision``, ``torchvision:NAME``, or None.
        reset_classifier: Take such weights at their own number of classes and start a new classifier, to fine-tune.
        channels_last: Keep weights, and so activations, as (N, H, W, C) in memory: the same network in another layout.
        optimizer: How to optimize; None for a network that is only evaluated.
        schedule: The learning-rate schedule; None likewise.
    """

    monitor = "val/top1"
    mode: Literal["min", "max"] = "max"

    def __init__(
        self,
        *,
        name: str,
        net: Classifier,
        label_smoothing: float = 0.0,
        auxiliary_weight: float = 0.3,
        weights: str | None = None,
        reset_classifier: bool = False,
        channels_last: bool = False,
        optimizer: OptimizerRecipe | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.net: nn.Module = net  # an evaluation may put a test protocol or an ensemble in its place
        self.label_smoothing = label_smoothing
        self.auxiliary_weight = auxiliary_weight
        self.optimizer_recipe = optimizer
        self.schedule = schedule
        if weights is not None:
            load_weights(net, weights, reset_classifier=reset_classifier)
        if channels_last:
            net.to(memory_format=torch.channels_last)

        self.num_classes = net.num_classes
        self.train_top1 = self._accuracy(1)
        self.val_metrics = self._metrics("val")
        self.test_metrics = self._metrics("test")
        self.predictions: Predictions | None = None

    def forward(self, images: Tensor | list[list[Tensor]]) -> Tensor:
        """Class logits (N, num_classes) of normalised images (N, C, H, W), or of the views of N images."""
        output = self.net(images)
        return output.logits if isinstance(output, ClassifierOutput) else output

    def loss(self, output: Tensor | ClassifierOutput, batch: Batch) -> Tensor:
        """The training loss: cross-entropy, with label smoothing, plus that of the auxiliary heads.

        A mixed image's is the weighted mean of those of its two labels (Zhang et al. 2018, section 2).
        """
        if isinstance(output, ClassifierOutput):
            auxiliary = [self.loss(logits, batch) for logits in output.auxiliary]
            return self.loss(output.logits, batch) + self.auxiliary_weight * sum(auxiliary, torch.zeros(()))
        if batch.mixed_labels is None or batch.label_weights is None:
            return F.cross_entropy(output, batch.labels, label_smoothing=self.label_smoothing)
        own, mixed = (
            F.cross_entropy(output, labels, label_smoothing=self.label_smoothing, reduction="none")
            for labels in (batch.labels, batch.mixed_labels)
        )
        return torch.lerp(mixed, own, batch.label_weights).mean()

    def training_step(self, batch: Batch) -> Tensor:
        """One forward pass; the loss, a scalar."""
        output = self.net(batch.images)
        loss = self.loss(output, batch)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._check_finite(loss)
            self.log("train/loss", loss, sync_dist=True)  # only here: the ranks wait for each other
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        self.last_loss = loss.detach()
        logits = output.logits if isinstance(output, ClassifierOutput) else output
        labels = batch.labels
        if batch.mixed_labels is not None and batch.label_weights is not None:  # the label with the larger share
            labels = torch.where(batch.label_weights < 0.5, batch.mixed_labels, labels)
        self.train_top1.update(logits.detach(), labels)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the accuracy over the epoch's batches, as they were when each was trained on."""
        self._check_finite(self.last_loss)
        self.log("train/top1", self.train_top1)

    def validation_step(self, batch: Batch) -> None:
        """Count one batch of the tuning split."""
        self._count(self.val_metrics, "val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the tuning split's metrics, reduced once over all ranks."""
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def on_test_start(self) -> None:
        """Begin an evaluation of the split that the data module names."""
        split = self.trainer.datamodule.split  # type: ignore[attr-defined]
        self.test_metrics = self._metrics(split).to(self.device)
        self.predictions = Predictions(split, self.num_classes)

    def test_step(self, batch: Batch | ViewBatch) -> None:
        """Count one batch of the reported split and keep its predictions."""
        logits = self._count(self.test_metrics, self.predictions.split, batch)  # type: ignore[union-attr]
        self.predictions.update(logits, batch)  # type: ignore[union-attr]

    def on_test_epoch_end(self) -> None:
        """Log the metrics and gather the predictions of all ranks."""
        self.log_dict(self.test_metrics.compute())
        self.predictions.gather()  # type: ignore[union-attr]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the schedule stepped after each optimizer step."""
        if self.optimizer_recipe is None or self.schedule is None:
            raise ValueError("a task without optimizer and schedule cannot be trained")
        global_batch_size = self.trainer.datamodule.global_batch_size  # type: ignore[attr-defined]
        optimizer = self.optimizer_recipe.build(self.net.parameters(), global_batch_size)
        total_steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.schedule(optimizer, total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _check_finite(self, loss: Tensor) -> None:
        # Not at every step: looking at the value makes a GPU wait.
        if not torch.isfinite(loss):
            raise UserError(
                f"train/loss is {loss.item()} at step {self.global_step}: training diverged; "
                "lower optimizer.learning_rate or set trainer.gradient_clip_val"
            )

    def _count(self, metrics: MetricCollection, split: str, batch: Batch | ViewBatch) -> Tensor:
        logits: Tensor = self(batch.images)
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        metrics[f"{split}/loss"].update(losses)
        for name in ("top1", "top5"):
            metrics[f"{split}/{name}"].update(logits, batch.labels)
        return logits

    def _metrics(self, split: str) -> MetricCollection:
        metrics: Mapping[str, Any] = {
            f"{split}/loss": MeanMetric(),
            f"{split}/top1": self._accuracy(1),
            f"{split}/top5": self._accuracy(5),
        }
        return MetricCollection(dict(metrics), compute_groups=False)

    def _accuracy(self, top_k: int) -> MulticlassAccuracy:
        return MulticlassAccuracy(
            self.num_classes, top_k=min(top_k, self.num_classes), average="micro", validate_args=False
        )
