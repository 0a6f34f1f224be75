"""The confusion matrix of pixels, from which all metrics of segmentation are computed exactly."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from convatlas.data.batch import IGNORE_INDEX


class PixelConfusion(Metric):
    """Counts pixels by true and predicted class, and sums their losses; one sum over all ranks.

    Args:
        num_classes: Number of classes.

    Attributes:
        counts: (num_classes, num_classes) int64: true classes in rows, predicted ones in columns.
        loss: Sum of the losses of all counted pixels, float64.
    """

    full_state_update = False
    counts: Tensor
    loss: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        zeros: Any = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, classes: Tensor, labels: Tensor, losses: Tensor | None = None) -> None:
        """Count predicted classes and labels of the same shape, int64; void pixels are left out."""
        self.counts += pixel_counts(classes, labels, self.num_classes)
        if losses is not None:
            self.loss += losses.sum(dtype=torch.float64)

    def compute(self) -> tuple[Tensor, Tensor]:
        """``counts`` and ``loss``, summed over all ranks."""
        return self.counts, self.loss

    def scores(self) -> dict[str, Tensor]:
        """The metrics by name, of all ranks together."""
        counts, loss = self.compute()
        return {"loss": (loss / counts.sum()).float(), **segmentation_scores(counts)}


def pixel_counts(classes: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The confusion matrix (K, K) int64 of predicted classes and labels of the same shape, without void pixels."""
    counted = labels != IGNORE_INDEX
    pairs = labels[counted] * num_classes + classes[counted]
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def class_ious(counts: Tensor) -> Tensor:
    """Compute the IoU of each class, (K,) float64; NaN for a class that is neither labelled nor predicted."""
    hits = counts.diagonal().double()
    return hits / (counts.sum(0) + counts.sum(1) - counts.diagonal()).double()


def segmentation_scores(counts: Tensor) -> dict[str, Tensor]:
    """The metrics of FCN (section 5), from the counts (K, K) of pixels by true and predicted class.

    Returns:
        ``mean_iou``, over the classes that are there or predicted; ``pixel_accuracy``; ``mean_accuracy``, over the
        classes that are there; ``frequency_weighted_iou``. NaN where no pixel counts.
    """
    true = counts.sum(1).double()
    hits = counts.diagonal().double()
    ious = class_ious(counts)
    return {
        "mean_iou": ious.nanmean().float(),
        "pixel_accuracy": (hits.sum() / true.sum()).float(),
        "mean_accuracy": (hits / true).nanmean().float(),
        "frequency_weighted_iou": ((true * ious.nan_to_num()).sum() / true.sum()).float(),
    }
