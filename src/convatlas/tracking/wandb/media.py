"""Pictures of an evaluation for W&B: samples, mistakes, overlays and the confusion matrix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convatlas.errors import UnreadableError
from convatlas.record.files import file_inside, read_evaluation

MATRIX_PIXELS = 480
"""Longest side of the confusion matrix in pixels; with more classes, each cell is one pixel."""
NAMED_CLASSES = 20
"""Largest number of classes that are named under the matrix."""
OVERLAID = {"classification": (), "segmentation": ("worst", "segmented"), "detection": ("worst", "detected")}
"""Entries of an evaluation that list images with labels and predictions drawn over them, by task type."""
VIEWS = ("image", "label_overlay", "prediction_overlay")
COLUMNS = ("image", "label", "prediction", "confidence", "path")


def evaluation_media(wandb: Any, file: Path) -> dict[str, Any]:
    """Make the pictures of an evaluation of classes, masks or objects.

    Args:
        wandb: The module, which takes a while to import.
        file: The evaluation, ``evaluation/test.json``; its images are in the same folder.

    Returns:
        Media by key.

    Raises:
        UnreadableError: The evaluation or a picture is damaged, or a picture is not in the folder of its evaluation.
    """
    evaluation = read_evaluation(file)
    split, classes = evaluation["split"], evaluation["classes"]
    task_type = evaluation["task_type"]
    shown = _classified(wandb, file.parent, evaluation) if task_type == "classification" else {}
    for kind in OVERLAID[task_type]:
        if entries := evaluation.get(kind):
            shown[f"{split}/{kind}"] = [
                wandb.Image(_side_by_side(file.parent, entry), caption=_caption(entry)) for entry in entries
            ]
    matrix = evaluation.get("pixel_confusion_matrix" if task_type == "segmentation" else "confusion_matrix")
    if matrix:
        named = ", ".join(classes[:NAMED_CLASSES]) + (", …" if len(classes) > NAMED_CLASSES else "")
        caption = f"rows: true classes, columns: predicted classes, darker: a larger share of the row: {named}"
        shown[f"{split}/confusion_matrix"] = wandb.Image(matrix_picture(matrix), caption=caption)
    return shown


def _classified(wandb: Any, folder: Path, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Images with their predicted classes, and a table of them."""
    split, classes = evaluation["split"], evaluation["classes"]
    shown: dict[str, Any] = {}
    rows = []
    for kind in ("samples", "mistakes"):
        images = []
        for entry in evaluation.get(kind, ()):
            pixels = np.asarray(_picture(folder, entry["image"]))  # (H, W) or (H, W, 3), uint8
            label, prediction = classes[entry["label"]], classes[entry["prediction"]]
            confidence = float(entry["confidence"])  # "NaN" too
            caption = f"{prediction} {100 * confidence:.1f} %" + ("" if label == prediction else f", is {label}")
            images.append(wandb.Image(pixels, caption=caption))
            rows.append([wandb.Image(pixels), label, prediction, confidence, entry["path"]])
        if images:
            shown[f"{split}/{kind}"] = images
    shown[f"{split}/predictions"] = wandb.Table(columns=list(COLUMNS), data=rows)
    return shown


def _side_by_side(folder: Path, entry: Mapping[str, Any]) -> Any:
    """The image if there is one, the labels and the predictions side by side, (H, W, 3) uint8."""
    return np.hstack([np.asarray(_picture(folder, entry[key]).convert("RGB")) for key in VIEWS if key in entry])


def _picture(folder: Path, name: str) -> Image.Image:
    path = file_inside(folder, name)
    if path is None:
        raise UnreadableError(f"{folder / name}: missing, or not in the folder of its evaluation")
    try:
        image = Image.open(path, formats=("PNG", "JPEG"))
        image.load()
    except Exception as error:  # damaged bytes may raise anything in the decoders
        raise UnreadableError(f"{path}: truncated or damaged picture ({type(error).__name__})") from error
    return image


def _caption(entry: Mapping[str, Any]) -> str:
    scores = [f"mean IoU {entry['mean_iou']:.3f}"] if isinstance(entry.get("mean_iou"), float) else []
    scores += [f"{entry[key]} {key}" for key in ("right", "missed", "wrong") if key in entry]
    return f"{entry['path']}: {', '.join(scores)}"


def matrix_picture(counts: list[list[int]]) -> Any:
    """Draw a confusion matrix, (H, W) uint8; darker cells hold a larger share of the row."""
    matrix = np.array(counts, dtype=np.float64)  # (C, C)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cell = max(1, MATRIX_PIXELS // len(matrix))
    picture = np.rint(255 * (1 - shares)).astype(np.uint8)
    return picture.repeat(cell, axis=0).repeat(cell, axis=1)
