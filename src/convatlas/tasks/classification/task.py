"""Image classification: cross-entropy in two forms, top-1 and top-5 accuracy."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from convatlas.data.batch import Batch, ViewBatch
from convatlas.models.outputs import ClassifierOutput
from convatlas.tasks.base import Task
from convatlas.tasks.classification.predictions import Predictions

PRESENT = 0.2
"""Share of a mixed image above which binary cross-entropy takes a class to be in it; the value of timm's recipes."""


class ClassificationTask(Task):
    """A classification network with its loss, metrics and optimizer.

    Logs ``train/loss`` and ``train/learning_rate`` as they come, ``train/top1`` once an epoch, and ``loss``, ``top1``
    and ``top5`` of the split that is evaluated, each sample counted once.

    Args:
        loss: ``cross_entropy`` of the softmax, or ``binary_cross_entropy`` of each class by itself, their mean
            ("ResNet strikes back", Wightman et al. 2021, section 2).
        label_smoothing: Share of the target spread over all classes (Szegedy et al. 2016, section 7).
        auxiliary_weight: Weight of each auxiliary head's loss (GoogLeNet, section 5).
        compile: Compile the network for training steps: other kernels for the same network; evaluation is as without.
        common: The arguments of ``Task``.
    """

    task_type = "classification"
    default_protocol = "center_crop"
    monitor = "val/top1"
    metric_names = "loss|top1|top5"

    def __init__(
        self,
        *,
        loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy",
        label_smoothing: float = 0.0,
        auxiliary_weight: float = 0.3,
        compile: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if compile:
            self.compile_net()
        self.is_binary = loss == "binary_cross_entropy"
        self.label_smoothing = label_smoothing
        self.auxiliary_weight = auxiliary_weight
        self.train_top1 = self._accuracy(1)
        self.val_metrics = self._metrics("val")
        self.test_metrics = self._metrics("test")
        self.predictions: Predictions | None = None

    def forward(self, images: Tensor | list[list[Tensor]]) -> Tensor:
        """Class logits (N, num_classes) of normalised images (N, C, H, W), or of the views of N images."""
        output = self.net(images)
        return output.logits if isinstance(output, ClassifierOutput) else output

    def loss(self, output: Tensor | ClassifierOutput, batch: Batch) -> Tensor:
        """The training loss, with label smoothing, plus that of the auxiliary heads.

        The cross-entropy of a mixed image is the weighted mean of those of its two labels (Zhang et al. 2018, section
        2). For the binary one, each class is in it or not.
        """
        if isinstance(output, ClassifierOutput):
            auxiliary = [self.loss(logits, batch) for logits in output.auxiliary]
            return self.loss(output.logits, batch) + self.auxiliary_weight * sum(auxiliary, torch.zeros(()))
        if self.is_binary:
            return F.binary_cross_entropy_with_logits(output, self._binary_targets(batch))
        if batch.mixed_labels is None or batch.label_weights is None:
            return F.cross_entropy(output, batch.labels, label_smoothing=self.label_smoothing)
        own, mixed = (
            F.cross_entropy(output, labels, label_smoothing=self.label_smoothing, reduction="none")
            for labels in (batch.labels, batch.mixed_labels)
        )
        return torch.lerp(mixed, own, batch.label_weights).mean()

    def _binary_targets(self, batch: Batch) -> Tensor:
        """Compute the targets of binary cross-entropy, (N, num_classes) float32."""
        present = F.one_hot(batch.labels, self.num_classes).float()
        if batch.mixed_labels is not None and batch.label_weights is not None:
            mixed = F.one_hot(batch.mixed_labels, self.num_classes).float()
            present = (torch.lerp(mixed, present, batch.label_weights[:, None]) > PRESENT).float()
        return present * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes

    def training_step(self, batch: Batch) -> Tensor:
        """Compute the loss of a batch, a scalar."""
        output = self.output(batch)
        loss = self.loss(output, batch)
        logits = output.logits if isinstance(output, ClassifierOutput) else output
        labels = batch.labels
        if batch.mixed_labels is not None and batch.label_weights is not None:  # the label with the larger share
            labels = torch.where(batch.label_weights < 0.5, batch.mixed_labels, labels)
        self.train_top1.update(logits.detach(), labels)
        self.log_step(loss)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the accuracy over the epoch's batches, as they were when each was trained on."""
        super().on_train_epoch_end()
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
