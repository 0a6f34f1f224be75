"""The evaluation section of a report: metrics, confusions and example images, for each task type."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convatlas.record.quantities import metric_label, metric_text
from convatlas.record.reader import number
from convatlas.report.figures.curves import Figure
from convatlas.report.figures.evaluation_figures import NAMED_CLASSES, class_accuracies, confusion_matrix
from convatlas.report.markup import image_file

CONFUSIONS = 15
"""Rows of the list of frequent confusions, which replaces the cell counts of a large matrix."""
OVERLAYS = ("image", "label_overlay", "prediction_overlay")
"""Entries of an example that name its pictures; an example of detection has no plain image."""
AP_COLUMNS = {"box_ap": "Box AP", "box_ap_50": "Box AP 50", "mask_ap": "Mask AP", "mask_ap_50": "Mask AP 50"}


def evaluation_view(
    key: str, folder: Path, evaluation: Mapping[str, Any], figures: dict[str, Figure]
) -> dict[str, Any]:
    """Prepare an evaluation for the template.

    Args:
        key: Prefix of the ids of its figures.
        folder: The folder of the evaluation file, which also holds the pictures.
        evaluation: The evaluation, from ``read_evaluation``.
        figures: The figures of the page by id; those of the evaluation are added.
    """
    view: dict[str, Any] = {
        "key": key,
        "split": evaluation["split"],
        "protocol": (evaluation.get("protocol") or {}).get("name", "center_crop"),
        "num_samples": evaluation.get("num_samples"),
        "checkpoint": evaluation.get("checkpoint"),
        "metrics": [(metric_label(name), metric_text(name, value)) for name, value in evaluation["metrics"].items()],
        "num_classes": len(evaluation["classes"]),
        "figures": [],
        "confusions": [],
        "without_samples": 0,
        "mistakes": [],
        "samples": [],
        "masks": None,
        "objects": None,
    }
    match evaluation["task_type"]:
        case "classification":
            view |= _classification(key, folder, evaluation, figures)
        case "segmentation":
            figures[f"{key}-pixels"] = _pixel_confusion(evaluation)
            view["masks"] = {"figure": f"{key}-pixels"} | _segmentation(folder, evaluation)
        case "detection":
            view["objects"] = _detection(folder, evaluation)
    return view


def _classification(
    key: str, folder: Path, evaluation: Mapping[str, Any], figures: dict[str, Figure]
) -> dict[str, Any]:
    samples = sorted(evaluation.get("samples", ()), key=lambda shown: -(number(shown["label_confidence"]) or 0))
    view: dict[str, Any] = {
        "mistakes": [_classified(folder, shown, evaluation["classes"]) for shown in evaluation.get("mistakes", ())],
        "samples": [_classified(folder, shown, evaluation["classes"]) for shown in samples],
        "figures": [],
    }
    if evaluation.get("confusion_matrix"):
        figures[f"{key}-confusion"] = confusion_matrix(evaluation)
        view["figures"].append("confusion")
        view["confusions"] = _confusions(evaluation)
    if evaluation.get("per_class"):
        figures[f"{key}-classes"] = class_accuracies(evaluation)
        view["figures"].append("classes")
        view["without_samples"] = sum(number(row["accuracy"]) is None for row in evaluation["per_class"])
    return view


def _classified(folder: Path, shown: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
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
    """List the most frequent confusions of a matrix that is too large to be read."""
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


def _segmentation(folder: Path, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "classes": [
            {
                "name": row["class"],
                "colour": row["colour"],
                "pixels": f"{row['pixels']:,}",
                "iou": metric_text("mean_iou", row["iou"]),
                "accuracy": metric_text("pixel_accuracy", row["accuracy"]),
                "width": _width(row["iou"]),
            }
            for row in evaluation["per_class_iou"]
        ],
        "worst": [_segmented(folder, shown) for shown in evaluation.get("worst", ())],
        "segmented": [_segmented(folder, shown) for shown in evaluation.get("segmented", ())],
    }


def _segmented(folder: Path, shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_overlays(folder, shown),
        "mean_iou": metric_text("mean_iou", shown["mean_iou"], digits=1),
        "pixel_accuracy": metric_text("pixel_accuracy", shown["pixel_accuracy"], digits=1),
    }


def _pixel_confusion(evaluation: Mapping[str, Any]) -> Figure:
    """Draw the confusion of pixels. The cells show shares: counts of pixels are too long for them."""
    figure = confusion_matrix(
        {"confusion_matrix": evaluation["pixel_confusion_matrix"], "classes": evaluation["classes"]}
    )
    trace = figure["data"][0]
    trace["hovertemplate"] = trace["hovertemplate"].replace("images", "pixels")
    if len(evaluation["classes"]) <= NAMED_CLASSES:
        trace["text"] = [[f"{100 * share:.1f}" if share >= 0.0005 else "" for share in row] for row in trace["z"]]
    return figure


def _detection(folder: Path, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    rows = evaluation["per_class_ap"]
    columns = [name for name in AP_COLUMNS if rows and name in rows[0]]
    return {
        "columns": [AP_COLUMNS[name] for name in columns],
        "classes": [
            {
                "name": row["class"],
                "objects": f"{row['objects']:,}",
                "values": [(metric_text("box_map", row.get(name)), _width(row.get(name))) for name in columns],
            }
            for row in rows
        ],
        "worst": [_detected(folder, shown) for shown in evaluation.get("worst", ())],
        "detected": [_detected(folder, shown) for shown in evaluation.get("detected", ())],
    }


def _detected(folder: Path, shown: Mapping[str, Any]) -> dict[str, Any]:
    return _overlays(folder, shown) | {name: shown[name] for name in ("right", "missed", "wrong")}


def _overlays(folder: Path, shown: Mapping[str, Any]) -> dict[str, Any]:
    pictures = [image_file(folder, shown[name]) for name in OVERLAYS if name in shown]
    return {"path": shown["path"], "pictures": pictures}


def _width(share: object) -> str:
    """The length of a bar in per cent."""
    return f"{100 * (number(share) or 0):.2f}"
