"""Evaluate a network on a split and write down what it said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from convatlas.data.datamodule import ClassificationDataModule
from convatlas.data.thumbnails import thumbnail_png
from convatlas.jsonio import dumps, write_atomic
from convatlas.tasks.classification import ClassificationTask
from convatlas.tasks.predictions import Predictions

CENTER_CROP: Mapping[str, Any] = {"name": "center_crop"}
"""The test protocol that goes without saying."""
SHOWN = 24
"""Mistakes and sample predictions kept with their images."""


def evaluate_split(
    trainer: Trainer,
    task: ClassificationTask,
    data: ClassificationDataModule,
    checkpoint: str | list[str],
    output: Path,
    protocol: Mapping[str, Any] = CENTER_CROP,
) -> dict[str, Any]:
    """Evaluate every sample of ``data.split`` once and write down the result, with images beside it.

    Args:
        trainer: A trainer, of any number of ranks.
        task: The network, its weights loaded.
        data: The images.
        checkpoint: Where the weights come from, as it is written down.
        output: The folder to write to, ``evaluation_file``; only rank zero writes.
        protocol: The test protocol that task and data follow, as it is written down.

    Returns:
        The metrics ``<split>/loss``, ``<split>/top1``, ``<split>/top5``.
    """
    trainer.test(task, datamodule=data, verbose=False)
    metrics = {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(f"{data.split}/")
    }
    predictions = task.predictions
    if trainer.is_global_zero and predictions is not None:
        about = {"split": data.split, "protocol": protocol, "checkpoint": checkpoint, "metrics": metrics}
        _write(about, predictions, data, evaluation_file(output, data.split, str(protocol["name"])))
    return metrics


def evaluation_file(output: Path, split: str, protocol: str) -> Path:
    """Where an evaluation is written: ``<split>.json``, or ``<split>-<protocol>.json``."""
    return output / (f"{split}.json" if protocol == CENTER_CROP["name"] else f"{split}-{protocol}.json")


def _write(about: Mapping[str, Any], predictions: Predictions, data: ClassificationDataModule, file: Path) -> None:
    (file.parent / data.split).mkdir(parents=True, exist_ok=True)
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
    result = {
        **about,
        "num_samples": len(predictions.indices),
        "classes": list(data.class_list.names),
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "mistakes": [_shown(predictions, row, data, file.parent) for row in predictions.mistakes(SHOWN)],
        "samples": [_shown(predictions, row, data, file.parent) for row in predictions.sample(SHOWN)],
    }
    write_atomic(file, dumps(result, indent=1))


def _shown(predictions: Predictions, row: int, data: ClassificationDataModule, output: Path) -> dict[str, Any]:
    index = int(predictions.indices[row])
    name = f"{data.split}/{index:06d}.png"
    (output / name).write_bytes(thumbnail_png(data.load(data.split, index)))
    return {
        "index": index,
        "path": data.path(data.split, index),
        "label": int(predictions.labels[row]),
        "prediction": int(predictions.classes[row]),
        "confidence": float(predictions.confidences[row]),
        "label_confidence": float(predictions.label_confidences[row]),
        "image": name,
    }
