"""The part of a report about an evaluation of masks: a table of the classes, the confusion of pixels, overlays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convatlas.record.quantities import metric_text
from convatlas.record.reader import number
from convatlas.report.figures.curves import Figure
from convatlas.report.figures.evaluation_figures import NAMED_CLASSES, confusion_matrix
from convatlas.report.markup import image_file

PICTURES = ("image", "label_overlay", "prediction_overlay")


def mask_view(
    key: str, folder: Path, evaluation: Mapping[str, Any], figures: dict[str, Figure]
) -> dict[str, Any] | None:
    """What the template shows of an evaluation of masks; None of one of anything else.

    Args:
        key: Starts the names of the figures.
        folder: Where the pictures are.
        evaluation: What was written down.
        figures: Where the figure of the confusion matrix goes.
    """
    if evaluation.get("per_class_iou") is None:
        return None
    figures[f"{key}-pixels"] = _pixel_confusion(evaluation)
    return {
        "figure": f"{key}-pixels",
        "classes": [_class(row) for row in evaluation["per_class_iou"]],
        "worst": [_shown(folder, shown) for shown in evaluation.get("worst", ())],
        "segmented": [_shown(folder, shown) for shown in evaluation.get("segmented", ())],
    }


def _class(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": row["class"],
        "colour": row["colour"],
        "pixels": f"{row['pixels']:,}",
        "iou": metric_text("mean_iou", row["iou"]),
        "accuracy": metric_text("pixel_accuracy", row["accuracy"]),
        "width": f"{100 * (number(row['iou']) or 0):.2f}",
    }


def _shown(folder: Path, shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": shown["path"],
        "pictures": [image_file(folder, shown[kind]) for kind in PICTURES],
        "mean_iou": metric_text("mean_iou", shown["mean_iou"], digits=1),
        "pixel_accuracy": metric_text("pixel_accuracy", shown["pixel_accuracy"], digits=1),
    }


def _pixel_confusion(evaluation: Mapping[str, Any]) -> Figure:
    """Shares in the cells: counts of pixels are too long for them."""
    figure = confusion_matrix(
        {"confusion_matrix": evaluation["pixel_confusion_matrix"], "classes": evaluation["classes"]}
    )
    trace = figure["data"][0]
    trace["hovertemplate"] = trace["hovertemplate"].replace("images", "pixels")
    if len(evaluation["classes"]) <= NAMED_CLASSES:
        trace["text"] = [[f"{100 * share:.1f}" if share >= 0.0005 else "" for share in row] for row in trace["z"]]
    return figure
