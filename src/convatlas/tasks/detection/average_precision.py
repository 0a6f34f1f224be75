"""COCO's average precision of boxes and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from convatlas.data.detection.objects import Objects, RunLengths

AREAS = {"": 0, "_small": 1, "_medium": 2, "_large": 3}
"""Positions of COCO's area ranges: all, below 32² pixels, up to 96² pixels, above."""


@dataclass(frozen=True)
class Detections:
    """Detections in one image.

    Attributes:
        index: Position of the image in its split.
        boxes: x0, y0, x1, y1 in pixels of the stored image, (n, 4) float32.
        labels: Classes from 0, (n,) int64.
        scores: Probabilities, (n,) float32.
        masks: The pixels of each object, or None.
    """

    index: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32]
    masks: Sequence[RunLengths] | None = None


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's metrics. They are NaN if there are no objects to find.

    Attributes:
        metrics: ``map`` (the mean over classes and over IoU thresholds from 0.50 to 0.95), ``map_50``, ``map_75``,
            ``map_small``, ``map_medium``, ``map_large``, and ``mar_100``, the mean recall of 100 detections an image.
        per_class: Average precision of each class, the mean over the thresholds, (K,).
        per_class_50: Average precision of each class at the threshold 0.50, (K,).
    """

    metrics: dict[str, float]
    per_class: NDArray[np.float64]
    per_class_50: NDArray[np.float64]


def average_precision(
    found: Sequence[Detections], objects: Sequence[Objects], num_classes: int, kind: Literal["box", "mask"]
) -> AveragePrecision:
    """Compute average precision as pycocotools does.

    Args:
        found: The detections in each image.
        objects: The annotated objects in each of the same images.
        num_classes: Number of classes.
        kind: Whether IoU is computed from boxes or masks.
    """
    masks = kind == "mask"
    images = [{"id": number, **_size(true)} for number, true in enumerate(objects, 1)]
    categories = [{"id": label + 1} for label in range(num_classes)]
    truth, said = (
        COCO({"images": images, "categories": categories, "annotations": annotations})
        for annotations in (_truth(objects, masks=masks), _said(found, masks=masks))
    )
    evaluation = COCOeval_faster(truth, said, "segm" if masks else "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    # (threshold, recall, class, area, detections) and (threshold, class, area, detections); -1 where there is nothing.
    precision, recall = (np.where(values < 0, np.nan, values) for values in _values(evaluation))
    metrics = {f"map{name}": _mean(precision[:, :, :, area, -1]) for name, area in AREAS.items()}
    metrics |= {f"map_{percent}": _mean(precision[row, :, :, 0, -1]) for row, percent in ((0, 50), (5, 75))}
    metrics["mar_100"] = _mean(recall[:, :, 0, -1])
    per_class = [
        np.array([_mean(precision[rows, :, label, 0, -1]) for label in range(num_classes)])
        for rows in (slice(None), slice(1))
    ]
    return AveragePrecision(metrics, *per_class)


def _values(evaluation: COCOeval_faster) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return evaluation.eval["precision"], evaluation.eval["recall"]


def _mean(values: NDArray[np.float64]) -> float:
    counted = values[~np.isnan(values)]
    return float(counted.mean()) if counted.size else float("nan")


def _size(true: Objects) -> dict[str, int]:
    """Return the size of an image from its masks. Without masks the size has no effect."""
    height, width = true.masks[0]["size"] if true.masks else (1, 1)
    return {"height": int(height), "width": int(width)}


def _truth(objects: Sequence[Objects], *, masks: bool) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for number, true in enumerate(objects, 1):
        for row in range(len(true.labels)):
            annotation = _annotation(number, len(annotations), true.boxes[row], int(true.labels[row]))
            annotation |= {"area": float(true.areas[row]), "iscrowd": int(true.crowd[row])}
            if masks and true.masks is not None:
                annotation["segmentation"] = true.masks[row]
            annotations.append(annotation)
    return annotations


def _said(found: Sequence[Detections], *, masks: bool) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for number, said in enumerate(found, 1):
        areas = coco_mask.area(list(said.masks)) if masks and said.masks else None
        for row in range(len(said.labels)):
            annotation = _annotation(number, len(annotations), said.boxes[row], int(said.labels[row]))
            annotation |= {"score": float(said.scores[row]), "iscrowd": 0}
            if areas is not None and said.masks is not None:
                annotation |= {"segmentation": said.masks[row], "area": float(areas[row])}
            else:
                annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
            annotations.append(annotation)
    return annotations


def _annotation(image: int, count: int, box: NDArray[np.float32], label: int) -> dict[str, Any]:
    x0, y0, x1, y1 = box.tolist()
    return {"id": count + 1, "image_id": image, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
