"""Evaluate a network on a split and write the result."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from convatlas.data.detection.module import DetectionDataModule
from convatlas.data.detection.objects import Objects, decode_masks
from convatlas.data.detection.pictures import objects_png
from convatlas.data.images.thumbnails import thumbnail_png
from convatlas.data.module import ImageDataModule
from convatlas.data.segmentation.module import SegmentationDataModule
from convatlas.data.segmentation.pictures import class_colours, mask_png, overlay_png
from convatlas.tasks.base import Task
from convatlas.tasks.classification.predictions import Predictions
from convatlas.tasks.detection.average_precision import Detections
from convatlas.tasks.detection.predictions import SCORE_THRESHOLD, ObjectPredictions
from convatlas.tasks.segmentation.confusion import class_ious
from convatlas.tasks.segmentation.predictions import MaskPredictions
from convatlas.utils.files import dumps, make_directory, write_atomic, write_picture, writing

USUAL_PROTOCOLS = ("center_crop", "whole_image")
"""The default test protocols, which are not part of the name of an evaluation file."""
SHOWN = 24
"""Number of mistakes and of sample predictions that are written with their images."""


def evaluate_split(
    trainer: Trainer,
    task: Task,
    data: ImageDataModule,
    checkpoint: str | list[str],
    output: Path,
    protocol: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate every sample of ``data.split`` once and write the result and example images.

    Args:
        trainer: A trainer with any number of ranks.
        task: The task with its network and loaded weights.
        data: The images.
        checkpoint: The source of the weights, which is written to the result.
        output: The folder of the result; see ``evaluation_file``. Only rank zero writes.
        protocol: The test protocol of task and data, which is written to the result. None: the default protocol of the
            task.

    Returns:
        The metrics ``<split>/loss``, ``<split>/top1`` and so on.
    """
    protocol = protocol or {"name": task.default_protocol}
    trainer.test(task, datamodule=data, verbose=False)
    metrics = {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(f"{data.split}/")
    }
    if trainer.is_global_zero:
        about = {"split": data.split, "protocol": protocol, "checkpoint": checkpoint, "metrics": metrics}
        file = evaluation_file(output, data.split, str(protocol["name"]))
        with writing(file):
            make_directory(file.parent / data.split)
        result = {**about, "classes": list(data.class_list.names), **details(task.predictions, data, file.parent)}
        write_atomic(file, dumps(result, indent=1))
    return metrics


def evaluation_file(output: Path, split: str, protocol: str) -> Path:
    """Return the path of an evaluation: ``<split>.json``, or ``<split>-<protocol>.json``."""
    return output / (f"{split}.json" if protocol in USUAL_PROTOCOLS else f"{split}-{protocol}.json")


@singledispatch
def details(predictions: object, data: ImageDataModule, output: Path) -> dict[str, Any]:
    """Compute the results of each class and of single images, and write pictures of them to ``output/<split>``."""
    raise TypeError(f"predictions of {type(predictions).__name__}")


@details.register
def _(predictions: Predictions, data: ImageDataModule, output: Path) -> dict[str, Any]:
    confusion = predictions.confusion_matrix()
    counts = confusion.sum(dim=1)
    per_class = [
        {
            "class": name,
            "count": int(count),
            "accuracy": float(confusion[index, index] / count) if count else None,
        }
        for index, (name, count) in enumerate(zip(data.class_list.names, counts, strict=True))
    ]
    return {
        "task_type": "classification",
        "num_samples": len(predictions.indices),
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "mistakes": [_shown(predictions, row, data, output) for row in predictions.mistakes(SHOWN)],
        "samples": [_shown(predictions, row, data, output) for row in predictions.sample(SHOWN)],
    }


@details.register
def _(predictions: MaskPredictions, data: SegmentationDataModule, output: Path) -> dict[str, Any]:
    counts, ious = predictions.counts, class_ious(predictions.counts)
    per_class = [
        {
            "class": name,
            "colour": colour,
            "pixels": int(counts[index].sum()),
            "iou": float(ious[index]) if counts[index].sum() + counts[:, index].sum() else None,
            "accuracy": float(counts[index, index] / counts[index].sum()) if counts[index].sum() else None,
        }
        for index, (name, colour) in enumerate(zip(data.class_list.names, class_colours(len(ious)), strict=True))
    ]
    scores = {score.index: score for score in predictions.scores}

    def shown(index: int) -> dict[str, Any]:
        pictures = {}
        image, mask = data.load(data.split, index), data.mask(data.split, index)
        for kind, png in (
            ("image", thumbnail_png(image)),
            ("label_overlay", overlay_png(image, mask)),
            ("prediction_overlay", overlay_png(image, predictions.masks[index])),
            ("prediction", mask_png(predictions.masks[index])),
        ):
            pictures[kind] = f"{data.split}/{index:06d}-{kind}.png"
            write_picture(output / pictures[kind], png)
        score = scores[index]
        return {"path": data.path(data.split, index), **asdict(score), **pictures}

    return {
        "task_type": "segmentation",
        "num_samples": len(predictions.scores),
        "per_class_iou": per_class,
        "pixel_confusion_matrix": counts.tolist(),
        "worst": [shown(index) for index in predictions.worst],
        "segmented": [shown(index) for index in predictions.sample if index in scores],
    }


@details.register
def _(predictions: ObjectPredictions, data: DetectionDataModule, output: Path) -> dict[str, Any]:
    names = data.class_list.names
    objects = [predictions.objects(found.index) for found in predictions.found]
    labels = np.concatenate([true.labels[~true.crowd] for true in objects])
    per_class = [
        {
            "class": name,
            "objects": int((labels == label).sum()),
            **{f"{kind}_ap": _number(figures.per_class[label]) for kind, figures in predictions.precision.items()},
            **{
                f"{kind}_ap_50": _number(figures.per_class_50[label]) for kind, figures in predictions.precision.items()
            },
        }
        for label, name in enumerate(names)
    ]

    def shown(row: int) -> dict[str, Any]:
        found, score = predictions.found[row], predictions.scores[row]
        image = data.load(data.split, score.index)
        pictures = {}
        for kind, png in (
            ("label_overlay", true_objects_png(image, objects[row], names)),
            ("prediction_overlay", found_objects_png(image, found, names)),
        ):
            pictures[kind] = f"{data.split}/{score.index:06d}-{kind}.png"
            write_picture(output / pictures[kind], png)
        return {"path": data.path(data.split, score.index), **asdict(score), **pictures}

    return {
        "task_type": "detection",
        "num_samples": predictions.num_samples,
        "per_class_ap": per_class,
        "worst": [shown(row) for row in predictions.worst()],
        "detected": [shown(row) for row in predictions.sample()],
    }


def true_objects_png(image: Tensor, true: Objects, names: Sequence[str]) -> bytes:
    """Draw the annotated objects of an image."""
    masks = None if true.masks is None else decode_masks(true.masks, _size(image))
    written = [
        names[label] + (" (crowd)" if crowd else "") for label, crowd in zip(true.labels, true.crowd, strict=True)
    ]
    return objects_png(image, torch.from_numpy(true.boxes), true.labels.tolist(), written, masks)


def found_objects_png(image: Tensor, found: Detections, names: Sequence[str]) -> bytes:
    """Draw the detections of an image whose score is at least ``SCORE_THRESHOLD``."""
    rows = np.flatnonzero(found.scores >= SCORE_THRESHOLD).tolist()
    masks = None if found.masks is None else decode_masks([found.masks[row] for row in rows], _size(image))
    written = [f"{names[found.labels[row]]} {found.scores[row]:.2f}" for row in rows]
    return objects_png(image, torch.from_numpy(found.boxes[rows]), found.labels[rows].tolist(), written, masks)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _shown(predictions: Predictions, row: int, data: ImageDataModule, output: Path) -> dict[str, Any]:
    index = int(predictions.indices[row])
    name = f"{data.split}/{index:06d}.png"
    write_picture(output / name, thumbnail_png(data.load(data.split, index)))
    return {
        "index": index,
        "path": data.path(data.split, index),
        "label": int(predictions.labels[row]),
        "prediction": int(predictions.classes[row]),
        "confidence": float(predictions.confidences[row]),
        "label_confidence": float(predictions.label_confidences[row]),
        "image": name,
    }
