"""The pictures of an evaluation as W&B shows them: samples, mistakes, the table of both, the confusion matrix."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MATRIX_PIXELS = 480
"""Longest side of the confusion matrix; one of more classes has a pixel a cell."""
NAMED_CLASSES = 20
"""As many classes are named under the matrix."""
COLUMNS = ("image", "label", "prediction", "confidence", "path")


def evaluation_media(wandb: Any, file: Path) -> dict[str, Any]:
    """Make the pictures of an evaluation.

    Args:
        wandb: The module, which takes a while to import.
        file: The evaluation, ``evaluation/test.json``; its images lie beside it.

    Returns:
        Media by key.
    """
    evaluation = json.loads(file.read_text())
    split, classes = evaluation["split"], evaluation["classes"]
    shown: dict[str, Any] = {}
    rows = []
    for kind in ("samples", "mistakes"):
        images = []
        for entry in evaluation[kind]:
            pixels = np.asarray(Image.open(file.parent / entry["image"]))  # (H, W) or (H, W, 3), uint8
            label, prediction = classes[entry["label"]], classes[entry["prediction"]]
            caption = f"{prediction} {100 * entry['confidence']:.1f} %" + (
                "" if label == prediction else f", is {label}"
            )
            images.append(wandb.Image(pixels, caption=caption))
            rows.append([wandb.Image(pixels), label, prediction, entry["confidence"], entry["path"]])
        if images:
            shown[f"{split}/{kind}"] = images
    shown[f"{split}/predictions"] = wandb.Table(columns=list(COLUMNS), data=rows)
    named = ", ".join(classes[:NAMED_CLASSES]) + (", …" if len(classes) > NAMED_CLASSES else "")
    caption = f"true classes in rows, predicted ones in columns, the darker the more of the row: {named}"
    shown[f"{split}/confusion_matrix"] = wandb.Image(matrix_picture(evaluation["confusion_matrix"]), caption=caption)
    return shown


def matrix_picture(counts: list[list[int]]) -> Any:
    """A confusion matrix as a picture, (H, W) uint8: the darker a cell, the larger its share of the row."""
    matrix = np.array(counts, dtype=np.float64)  # (C, C)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    cell = max(1, MATRIX_PIXELS // len(matrix))
    picture = np.rint(255 * (1 - shares)).astype(np.uint8)
    return picture.repeat(cell, axis=0).repeat(cell, axis=1)
