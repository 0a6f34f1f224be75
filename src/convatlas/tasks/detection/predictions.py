"""The detections of one evaluation, gathered from all ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from convatlas.data.detection.objects import Objects, encode_masks
from convatlas.errors import UserError
from convatlas.models.detection.detector import Detection
from convatlas.tasks.detection.average_precision import AveragePrecision, Detections, average_precision
from convatlas.tasks.gathering import gather_ranks

SCORE_THRESHOLD = 0.5
"""Minimum score of detections that are counted and drawn."""
OVERLAP = 0.5
"""Minimum IoU of a detection with the object that it matches."""
SHOWN = 12
"""Number of images that are drawn: so many of the worst, and so many spread over the split."""


@dataclass(frozen=True)
class DetectionScore:
    """The errors in an image, for detections with a score of at least ``SCORE_THRESHOLD``.

    Attributes:
        index: Position of the image in the split.
        right: Number of objects with a detection of their class.
        missed: Number of objects without one.
        wrong: Number of detections without an object of their class. Detections of crowds do not count.
    """

    index: int
    right: int
    missed: int
    wrong: int


class ObjectPredictions:
    """The detections of a split.

    Args:
        split: The split that is evaluated.
        num_classes: Number of classes.
        objects: Returns the objects of an image by its position in the split.

    Attributes:
        found: The detections of each image; after ``gather`` those of all ranks, in the order of the split.
        scores: The errors in each image, in the order of ``found``; filled by ``gather``.
        precision: Average precision of ``box`` and, for networks with masks, of ``mask``; filled by ``gather``.
    """

    def __init__(self, split: str, num_classes: int, objects: Callable[[int], Objects]) -> None:
        self.split = split
        self.num_classes = num_classes
        self.objects = objects
        self.found: list[Detections] = []
        self.scores: list[DetectionScore] = []
        self.precision: dict[str, AveragePrecision] = {}

    @property
    def num_samples(self) -> int:
        """Number of images; of all ranks after ``gather``."""
        return len(self.found)

    def update(self, index: int, said: Detection) -> None:
        """Add the detections of one image, in pixels of the stored image."""
        self.found.append(found_in(index, said))

    def gather(self) -> None:
        """Gather the detections of all ranks and compare them with the annotated objects.

        Raises:
            UserError: Every image was skipped.
        """
        self.found = [found for part in gather_ranks(self.found) for found in part]
        if not self.found:
            raise UserError(f"data.on_error=skip: none of the {self.split} images can be decoded")
        self.found.sort(key=lambda found: found.index)
        objects = [self.objects(found.index) for found in self.found]
        self.scores = [_score(*pair) for pair in zip(self.found, objects, strict=True)]
        self.precision = {"box": average_precision(self.found, objects, self.num_classes, "box")}
        if all(found.masks is not None for found in self.found):
            self.precision["mask"] = average_precision(self.found, objects, self.num_classes, "mask")

    def metrics(self) -> dict[str, float]:
        """Return ``<split>/box_map``, ``<split>/mask_map`` and so on, without sizes of which there are no objects."""
        return {
            f"{self.split}/{kind}_{name}": value
            for kind, precision in self.precision.items()
            for name, value in precision.metrics.items()
            if name == "map" or value == value
        }

    def worst(self) -> list[int]:
        """Rows of the images with the most errors, the worst first, at most ``SHOWN``."""
        errors = {row: score.missed + score.wrong for row, score in enumerate(self.scores)}
        ranked = sorted((row for row in errors if errors[row]), key=lambda row: (-errors[row], row))
        return ranked[:SHOWN]

    def sample(self) -> list[int]:
        """Rows spread evenly over the split, at most ``SHOWN``."""
        count = min(SHOWN, len(self.found))
        return [row * len(self.found) // count for row in range(count)]


def found_in(index: int, said: Detection) -> Detections:
    """Move the detections of one image to the CPU and encode the masks."""
    masks = encode_masks(said["masks"].cpu().numpy()) if "masks" in said else None
    boxes, labels, scores = (said[key].float().cpu().numpy() for key in ("boxes", "labels", "scores"))
    return Detections(index, boxes, labels.astype(np.int64), scores, masks)


def _score(found: Detections, true: Objects) -> DetectionScore:
    """Match each detection, in descending order of scores, to the unmatched object with the largest IoU."""
    certain = np.flatnonzero(found.scores >= SCORE_THRESHOLD)
    overlaps = box_iou(torch.from_numpy(found.boxes[certain]), torch.from_numpy(true.boxes)).numpy()
    overlaps[found.labels[certain, None] != true.labels[None]] = 0
    taken: NDArray[np.bool_] = np.zeros(len(true.labels), np.bool_)
    wrong = 0
    for row in _by_score(found.scores[certain]):
        free = np.where(taken & ~true.crowd, 0, overlaps[row])
        best = int(free.argmax()) if len(free) else -1
        if best >= 0 and free[best] >= OVERLAP:
            taken[best] = True
        else:
            wrong += 1
    single = ~true.crowd
    return DetectionScore(found.index, int((taken & single).sum()), int((~taken & single).sum()), wrong)


def _by_score(scores: NDArray[np.float32]) -> Sequence[int]:
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order
