"""Object detection and instance segmentation: the losses of R-CNNs, COCO's average precision."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from convatlas.data.batch import ObjectBatch
from convatlas.data.detection.objects import Objects
from convatlas.errors import DivergedError, UserError
from convatlas.models.detection.detector import Detection, Detector, Target, in_stored_image
from convatlas.tasks.base import Task
from convatlas.tasks.detection.predictions import ObjectPredictions
from convatlas.tasks.interfaces import Images


class ObjectImages(Images, Protocol):
    """The interface of a data module that the task uses."""

    @property
    def split(self) -> str:
        """The split that a test evaluates."""

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""

    def objects(self, split: str, index: int) -> Objects:
        """Return the objects of an image of a split."""


class DetectionTask(Task):
    """A detector with its losses, metrics and optimizer.

    Logs ``train/loss``, its parts ``train/loss_classifier``, ``train/loss_box_reg``, ``train/loss_objectness``,
    ``train/loss_rpn_box_reg`` and ``train/loss_mask``, and ``train/learning_rate`` as they come; of the split that is
    evaluated ``box_map``, ``box_map_50`` and the others of ``AveragePrecision``, and of networks with masks
    ``mask_map`` and so on, from the detections of all ranks.

    Args:
        backbone: ``weights``: a trained classification network that the detector starts from; a file,
            ``torchvision``, ``torchvision:NAME``, or None; ``weights_entry``: the entry of that file.
        common: The arguments of ``Task``.

    Attributes:
        predictions: Detections of the last evaluation.
    """

    task_type = "detection"
    default_protocol = "whole_image"
    monitor = "val/box_map"
    metric_names = r"(box|mask)_ma[pr]\w*"
    net: Detector

    def __init__(self, *, backbone: Mapping[str, str | None] | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.load_backbone(backbone)

    def check_data(self, data: Images) -> None:
        """Refuse data that do not fit the network.

        Raises:
            UserError: Data of another task type, or without the masks that the network learns.
        """
        super().check_data(data)
        if self.net.has_masks and not cast(ObjectImages, data).has_masks:
            raise UserError(
                f"data={data.name} has no masks, and model={self.name} learns them; expected data.dataset.masks=true, "
                "or a Faster R-CNN"
            )

    def forward(self, batch: ObjectBatch) -> list[Detection]:
        """Return the detections of each image, in pixels of the stored image."""
        found = cast(list[Detection], self.net(batch.images, batch.sizes))
        return [in_stored_image(*one) for one in zip(found, batch.sizes, batch.stored_sizes, strict=True)]

    def output(self, batch: ObjectBatch) -> dict[str, Tensor]:
        """Compute the parts of the training loss by name, scalars."""
        targets = [Target(boxes=boxes, labels=labels) for boxes, labels in zip(batch.boxes, batch.labels, strict=True)]
        if self.net.has_masks and batch.masks is not None:
            for target, masks in zip(targets, batch.masks, strict=True):
                target["masks"] = masks
        return cast(dict[str, Tensor], self.net(batch.images, batch.sizes, targets))

    def loss(self, output: Mapping[str, Tensor], batch: ObjectBatch) -> Tensor:
        """Compute the training loss, a scalar: the sum of its parts (Mask R-CNN, section 3)."""
        return torch.stack(list(output.values())).sum()

    def training_step(self, batch: ObjectBatch) -> Tensor:
        """Compute the loss of a batch, a scalar.

        Raises:
            DivergedError: A part is not finite. The weights are unchanged.
        """
        losses = self.output(batch)
        loss = self.loss(losses, batch)
        # At every step, because the selection of regions synchronises with the GPU anyway.
        if not torch.isfinite(loss):
            parts = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            raise DivergedError(
                f"train/loss is {loss.item()} at step {self.global_step} ({parts}): training diverged; "
                "lower optimizer.learning_rate or set trainer.gradient_clip_val"
            )
        self.log_step(loss, {f"train/{name}": value.detach() for name, value in losses.items()})
        return loss

    def on_validation_epoch_start(self) -> None:
        """Begin an evaluation of the tuning split."""
        self._begin("val")

    def validation_step(self, batch: ObjectBatch) -> None:
        """Add the detections of one batch of the tuning split."""
        self._keep(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the tuning split's metrics, from all ranks."""
        self._end()

    def on_test_epoch_start(self) -> None:
        """Begin an evaluation of the split that the data module names."""
        self._begin(self.trainer.datamodule.split)  # type: ignore[attr-defined]

    def test_step(self, batch: ObjectBatch) -> None:
        """Add the detections of one batch of the reported split."""
        self._keep(batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics, from all ranks."""
        self._end()

    def _begin(self, split: str) -> None:
        data: ObjectImages = self.trainer.datamodule  # type: ignore[attr-defined]
        self.predictions = ObjectPredictions(split, self.num_classes, partial(data.objects, split))

    def _keep(self, batch: ObjectBatch) -> None:
        for index, found in zip(batch.indices.tolist(), self(batch), strict=True):
            cast(ObjectPredictions, self.predictions).update(index, found)

    def _end(self) -> None:
        predictions = cast(ObjectPredictions, self.predictions)
        predictions.gather()
        self.log_dict(predictions.metrics())
