"""The predictions of one evaluation, gathered from all ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from convatlas.errors import UserError
from convatlas.tasks.gathering import gather_ranks
from convatlas.tasks.segmentation.confusion import class_ious, pixel_counts

SHOWN = 12
"""Images whose predicted masks are kept: the worst, and as many spread over the split."""


@dataclass(frozen=True, order=True)
class SegmentationScore:
    """The quality of the segmentation of one image.

    Attributes:
        index: Position in the split.
        mean_iou: Over the classes that are there or predicted; NaN where all pixels are void.
        pixel_accuracy: Share of the pixels that are right; NaN likewise.
    """

    index: int
    mean_iou: float
    pixel_accuracy: float


class MaskPredictions:
    """The score of each image, and the predicted masks of a few.

    Args:
        split: The split that is evaluated.
        num_samples: Images of the split.
        num_classes: Number of classes.

    Attributes:
        counts: Pixels by true and predicted class, (num_classes, num_classes) int64; set by ``gather``.
        scores: The score of each image, in the order of the split; complete after ``gather``.
        masks: Predicted classes, (H, W) uint8, of some images by their position in the split; likewise.
    """

    counts: Tensor

    def __init__(self, split: str, num_samples: int, num_classes: int) -> None:
        self.split = split
        self.num_classes = num_classes
        count = min(SHOWN, num_samples)
        self.sample = [row * num_samples // count for row in range(count)]
        self.scores: list[SegmentationScore] = []
        self.masks: dict[int, Tensor] = {}

    @property
    def num_samples(self) -> int:
        """Number of images, once they are gathered."""
        return len(self.scores)

    @property
    def worst(self) -> list[int]:
        """Positions of the images with the lowest mean IoU, the worst first, at most ``SHOWN``."""
        scored = [score for score in self.scores if score.mean_iou == score.mean_iou]
        return [score.index for score in sorted(scored, key=lambda score: (score.mean_iou, score.index))[:SHOWN]]

    def update(self, index: int, classes: Tensor, labels: Tensor) -> None:
        """Add the predicted classes and labels of one image, (H, W) each."""
        counts = pixel_counts(classes, labels, self.num_classes)
        accuracy = counts.diagonal().sum().double() / counts.sum()
        self.scores.append(SegmentationScore(index, float(class_ious(counts).nanmean()), float(accuracy)))
        self.masks[index] = classes.to(torch.uint8).cpu()
        self._forget()

    def gather(self, counts: Tensor) -> None:
        """Bring the predictions of all ranks together, in the order of the split.

        Args:
            counts: The confusion matrix of all ranks.

        Raises:
            UserError: There are none: every image was skipped.
        """
        self.counts = counts.cpu()
        ranks = gather_ranks((self.scores, self.masks))
        self.scores = [score for scores, _ in ranks for score in scores]
        self.masks = {index: mask for _, masks in ranks for index, mask in masks.items()}
        if not self.scores:
            raise UserError(f"data.on_error=skip: none of the {self.split} images can be used")
        self.scores.sort()
        self._forget()

    def _forget(self) -> None:
        kept = {*self.sample, *self.worst}
        self.masks = {index: mask for index, mask in self.masks.items() if index in kept}
