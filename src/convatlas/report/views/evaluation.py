"""What a page shows of an evaluation: metrics, confusions, and pictures from the best to the worst."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convatlas.record.quantities import metric_label, metric_text
from convatlas.record.reader import number
from convatlas.report.figures.curves import Figure
from convatlas.report.figures.evaluation_figures import NAMED_CLASSES, class_accuracies, confusion_matrix
from convatlas.report.markup import image_file
from convatlas.report.views.detection import object_view
from convatlas.report.views.segmentation import mask_view

CONFUSIONS = 15
"""Rows of the list of frequent confusions, which replaces the cell counts of a large matrix."""


def evaluation_view(
    key: str, folder: Path, evaluation: Mapping[str, Any], figures: dict[str, Figure]
) -> dict[str, Any]:
    """Prepare an evaluation for the template.

    Args:
        key: What its figures are called.
        folder: The folder of its file, which the pictures lie in.
        evaluation: The content of the file.
        figures: Its figures are added here.
    """
    view: dict[str, Any] = {
        "key": key,
        "split": evaluation.get("split", "test"),
        "protocol": (evaluation.get("protocol") or {}).get("name", "center_crop"),
        "num_samples": evaluation.get("num_samples"),
        "checkpoint": evaluation.get("checkpoint"),
        "metrics": [
            (metric_label(name), metric_text(name, value)) for name, value in evaluation.get("metrics", {}).items()
        ],
        "num_classes": len(evaluation.get("classes", ())),
        "confusions": [],
        "without_samples": 0,
        "masks": mask_view(key, folder, evaluation, figures),
        "objects": object_view(folder, evaluation),
        "mistakes": [_picture(folder, shown, evaluation["classes"]) for shown in evaluation.get("mistakes", ())],
    }
    samples = sorted(evaluation.get("samples", ()), key=lambda shown: -(number(shown["label_confidence"]) or 0))
    view["samples"] = [_picture(folder, shown, evaluation["classes"]) for shown in samples]
    if evaluation.get("confusion_matrix"):
        figures[f"{key}-confusion"] = confusion_matrix(evaluation)
        view["confusions"] = _confusions(evaluation)
    if evaluation.get("per_class"):
        figures[f"{key}-classes"] = class_accuracies(evaluation)
        view["without_samples"] = sum(number(row["accuracy"]) is None for row in evaluation["per_class"])
    view["figures"] = [name for name in ("confusion", "classes") if f"{key}-{name}" in figures]
    return view


def _picture(folder: Path, shown: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "image": image_file(folder, shown["image"]),
        "path": shown["path"],
        "label": str(classes[shown["label"]]),
        "prediction": str(classes[shown["prediction"]]),
        "right": shown["label"] == shown["prediction"],
        "confidence": metric_text("top1", shown["confidence"], digits=1),
        "label_confidence": metric_text("top1", shown["label_confidence"], digits=1),
    }


def _confusions(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions, for a matrix too large to read."""
    classes = evaluation["classes"]
    if len(classes) <= NAMED_CLASSES:
        return []
    counts = np.array(evaluation["confusion_matrix"], dtype=np.int64)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    rows = []
    for position in np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS].tolist():
        true, predicted = divmod(position, len(classes))
        count = int(counts[true, predicted])
        if count:
            share = metric_text("top1", count / int(totals[true]), digits=1)
            rows.append({"true": classes[true], "predicted": classes[predicted], "count": count, "share": share})
    return rows
