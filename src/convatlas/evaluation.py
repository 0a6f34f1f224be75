"""Evaluate a network on a split and write down what it said."""

from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from convatlas.data.datamodule import ClassificationDataModule
from convatlas.data.thumbnails import thumbnail_png
from convatlas.jsonio import dumps, write_atomic
from convatlas.tasks.classification import ClassificationTask
from convatlas.tasks.predictions import Predictions

SHOWN = 24
"""Mistakes and sample predictions kept with their images."""


def evaluate_split(
    trainer: Trainer, task: ClassificationTask, data: ClassificationDataModule, checkpoint: str, output: Path
) -> dict[str, Any]:
    """Evaluate every sample of ``data.split`` once and write ``<split>.json`` with images beside it.

    Args:
        trainer: A trainer, of any number of ranks.
        task: The network, its weights loaded.
        data: The images.
        checkpoint: Where the weights come from, as it is written down.
        output: The folder to write to; only rank zero writes.

    Returns:
        The metrics ``<split>/loss``, ``<split>/top1``, ``<split>/top5``.
    """
    trainer.test(task, datamodule=data, verbose=False)
    metrics = {
        name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(f"{data.split}/")
    }
    predictions = task.predictions
    if trainer.is_global_zero and predictions is not None:
        _write(predictions, metrics, data, checkpoint, output)
    return metrics


def _write(
    predictions: Predictions,
    metrics: dict[str, float],
    data: ClassificationDataModule,
    checkpoint: str,
    output: Path,
) -> None:
    (output / data.split).mkdir(parents=True, exist_ok=True)
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
        "split": data.split,
        "checkpoint": checkpoint,
        "num_samples": len(predictions.indices),
        "metrics": metrics,
        "classes": list(data.class_list.names),
        "per_class": per_class,
        "confusion_matrix": confusion.tolist(),
        "mistakes": [_shown(predictions, row, data, output) for row in predictions.mistakes(SHOWN)],
        "samples": [_shown(predictions, row, data, output) for row in predictions.sample(SHOWN)],
    }
    write_atomic(output / f"{data.split}.json", dumps(result, indent=1))


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
