"""Semantic segmentation: cross-entropy of pixels, mean intersection over union."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from convatlas.data.batch import IGNORE_INDEX, SegmentationBatch, WholeImageBatch
from convatlas.errors import UserError
from convatlas.models.outputs import ClassifierOutput
from convatlas.models.segmentation.segmenter import Segmenter
from convatlas.models.segmentation.unet import centre
from convatlas.tasks.base import Task
from convatlas.tasks.interfaces import Images
from convatlas.tasks.segmentation.confusion import PixelConfusion
from convatlas.tasks.segmentation.predictions import MaskPredictions
from convatlas.tasks.segmentation.protocols import DenseViews


class SegmentationTask(Task):
    """A segmentation network with its loss, metrics and optimizer.

    Logs ``train/loss`` and ``train/learning_rate`` as they come, ``train/mean_iou`` once an epoch, and ``loss``,
    ``mean_iou``, ``pixel_accuracy``, ``mean_accuracy`` and ``frequency_weighted_iou`` of the split that is evaluated,
    from one confusion matrix over all ranks.

    Args:
        backbone: ``weights``: a trained classification network that the backbone starts from; a file,
            ``torchvision``, ``torchvision:NAME``, or None; ``weights_entry``: the entry of that file.
        auxiliary_weight: Weight of the auxiliary head's loss.
        compile: Whether to compile the network for training steps. Evaluation uses the network without compilation.
        common: The arguments of ``Task``.

    Attributes:
        views: How an evaluation shows whole images to the network.
        predictions: Predictions of the last evaluation.
    """

    task_type = "segmentation"
    default_protocol = "whole_image"
    monitor = "val/mean_iou"
    metric_names = "loss|mean_iou|pixel_accuracy|mean_accuracy|frequency_weighted_iou"
    net: Segmenter

    def __init__(
        self,
        *,
        backbone: Mapping[str, str | None] | None = None,
        auxiliary_weight: float = 0.5,
        compile: bool = False,
        **common: Any,
    ) -> None:
        source, weights = (backbone or {}).get("weights"), common.get("weights")
        if source is not None and weights is not None:
            raise UserError(
                f"model.weights={weights}, model.backbone.weights={source}: both start the backbone; expected one"
            )
        super().__init__(**common)
        self.load_backbone(backbone)
        if compile:
            self.compile_net()
        self.auxiliary_weight = auxiliary_weight
        self.views = DenseViews()
        self.train_confusion = PixelConfusion(self.num_classes)
        self.val_confusion = PixelConfusion(self.num_classes)
        self.test_confusion = PixelConfusion(self.num_classes)
        self.predictions: MaskPredictions | None = None

    def check_data(self, data: Images) -> None:
        """Refuse data that do not fit the network.

        Raises:
            UserError: Data of another task type, or an image size that the network does not take.
        """
        super().check_data(data)
        self.net.output_size(data.image_size)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Log-probabilities (num_classes, H, W) of normalised images, each (C, H, W)."""
        return self.views(self.net, images)

    def loss(self, output: Tensor | ClassifierOutput, batch: SegmentationBatch) -> Tensor:
        """The training loss: the mean cross-entropy of the pixels that are not void, plus the auxiliary head's.

        The weights of pixels multiply their losses. A batch of void pixels alone has a loss of 0.
        """
        if isinstance(output, ClassifierOutput):
            auxiliary = [self.loss(logits, batch) for logits in output.auxiliary]
            return self.loss(output.logits, batch) + self.auxiliary_weight * sum(auxiliary, torch.zeros(()))
        labels = centre(batch.labels, *output.shape[-2:])
        counted = (labels != IGNORE_INDEX).sum().clamp(min=1)
        if batch.weights is None:
            return F.cross_entropy(output, labels, ignore_index=IGNORE_INDEX, reduction="sum") / counted
        losses = F.cross_entropy(output, labels, ignore_index=IGNORE_INDEX, reduction="none")
        return (losses * centre(batch.weights, *output.shape[-2:])).sum() / counted

    def training_step(self, batch: SegmentationBatch) -> Tensor:
        """Compute the loss of a batch, a scalar."""
        output = self.output(batch)
        loss = self.loss(output, batch)
        logits = output.logits if isinstance(output, ClassifierOutput) else output
        self.train_confusion.update(logits.detach().argmax(dim=1), centre(batch.labels, *logits.shape[-2:]))
        self.log_step(loss)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the mean IoU over the epoch's crops, as they were when each was trained on."""
        super().on_train_epoch_end()
        self.log("train/mean_iou", self.train_confusion.scores()["mean_iou"])
        self.train_confusion.reset()

    def validation_step(self, batch: WholeImageBatch) -> None:
        """Count one batch of the tuning split."""
        self._count(self.val_confusion, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the tuning split's metrics, reduced once over all ranks."""
        self._log_scores(self.val_confusion, "val")

    def on_test_start(self) -> None:
        """Begin an evaluation of the split that the data module names."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.predictions = MaskPredictions(data.split, data.num_samples(data.split), self.num_classes)

    def test_step(self, batch: WholeImageBatch) -> None:
        """Count one batch of the reported split and keep its predictions."""
        for index, classes, labels in zip(
            batch.indices.tolist(), self._count(self.test_confusion, batch), batch.labels, strict=True
        ):
            self.predictions.update(index, classes, labels)  # type: ignore[union-attr]

    def on_test_epoch_end(self) -> None:
        """Log the metrics and gather the predictions of all ranks."""
        self.predictions.gather(self.test_confusion.compute()[0])  # type: ignore[union-attr]
        self._log_scores(self.test_confusion, self.predictions.split)  # type: ignore[union-attr]

    def _count(self, confusion: PixelConfusion, batch: WholeImageBatch) -> list[Tensor]:
        """Count a batch, and return the predicted classes of each image, (H, W)."""
        predicted = []
        for scores, labels in zip(self(batch.images), batch.labels, strict=True):
            predicted.append(scores.argmax(dim=0))
            losses = F.nll_loss(scores[None], labels[None], ignore_index=IGNORE_INDEX, reduction="none")
            confusion.update(predicted[-1], labels, losses)
        return predicted

    def _log_scores(self, confusion: PixelConfusion, split: str) -> None:
        self.log_dict({f"{split}/{name}": value for name, value in confusion.scores().items()})
        confusion.reset()
