"""The predictions of one evaluation, gathered from all ranks."""

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from convatlas.data.batch import Batch, ViewBatch
from convatlas.errors import UserError
from convatlas.tasks.gathering import gather_ranks


class Predictions:
    """Predictions for the samples of a split.

    Args:
        split: The split that is evaluated.
        num_classes: Number of classes.

    Attributes:
        indices: Position of each sample in the split, (N,) int64, ascending after ``gather``.
        labels: True classes, (N,) int64.
        classes: Predicted classes, (N,) int64.
        confidences: Probability of the predicted class, (N,) float32.
        label_confidences: Probability of the true class, (N,) float32.
    """

    def __init__(self, split: str, num_classes: int) -> None:
        self.split = split
        self.num_classes = num_classes
        whole, share = torch.empty(0, dtype=torch.int64), torch.empty(0)
        self._batches: list[tuple[Tensor, ...]] = [(whole, whole, whole, share, share)]  # a rank may have no more

    @property
    def num_samples(self) -> int:
        """Number of samples, once they are gathered."""
        return len(self.indices)

    def update(self, logits: Tensor, batch: Batch | ViewBatch) -> None:
        """Keep one batch: logits (N, num_classes) and its labels and indices."""
        probabilities = logits.float().softmax(dim=1)
        confidences, classes = probabilities.max(dim=1)
        label_confidences = probabilities.gather(1, batch.labels[:, None])[:, 0]
        kept = (batch.indices, batch.labels, classes, confidences, label_confidences)
        self._batches.append(tuple(tensor.cpu() for tensor in kept))

    def gather(self) -> None:
        """Bring the predictions of all ranks together, in the order of the split.

        Raises:
            UserError: There are none: every image was skipped.
        """
        mine = tuple(torch.cat(column) for column in zip(*self._batches, strict=True))
        joined = [torch.cat(column) for column in zip(*gather_ranks(mine), strict=True)]
        if not len(joined[0]):
            raise UserError(f"data.on_error=skip: none of the {self.split} images can be decoded")
        order = joined[0].argsort()
        self.indices, self.labels, self.classes, self.confidences, self.label_confidences = (
            column[order] for column in joined
        )

    def confusion_matrix(self) -> Tensor:
        """Counts (num_classes, num_classes) int64: true classes in rows, predicted ones in columns."""
        return multiclass_confusion_matrix(self.classes, self.labels, self.num_classes)

    def mistakes(self, limit: int) -> list[int]:
        """Rows of the wrong predictions, the most confident first, at most ``limit``."""
        wrong = (self.classes != self.labels).nonzero()[:, 0]
        order = self.confidences[wrong].argsort(descending=True, stable=True)
        return [int(row) for row in wrong[order[:limit]]]

    def sample(self, limit: int) -> list[int]:
        """Rows spread evenly over the split, at most ``limit``."""
        count = min(limit, len(self.indices))
        return [row * len(self.indices) // count for row in range(count)]
