"""The part of a report about an evaluation of detections: a table of the classes, and pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convatlas.record.quantities import metric_text
from convatlas.record.reader import number
from convatlas.report.markup import image_file

PICTURES = ("label_overlay", "prediction_overlay")
COLUMNS = {"box_ap": "Box AP", "box_ap_50": "Box AP 50", "mask_ap": "Mask AP", "mask_ap_50": "Mask AP 50"}


def object_view(folder: Path, evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the template shows of an evaluation of detections; None of one of anything else.

    Args:
        folder: Where the pictures are.
        evaluation: What was written down.
    """
    rows = evaluation.get("per_class_ap")
    if not rows:
        return None
    columns = [name for name in COLUMNS if name in rows[0]]
    return {
        "columns": [COLUMNS[name] for name in columns],
        "classes": [
            {
                "name": row["class"],
                "objects": f"{row['objects']:,}",
                "values": [(metric_text("box_map", row.get(name)), _width(row.get(name))) for name in columns],
            }
            for row in rows
        ],
        "worst": [_shown(folder, shown) for shown in evaluation.get("worst", ())],
        "detected": [_shown(folder, shown) for shown in evaluation.get("detected", ())],
    }


def _width(share: object) -> str:
    return f"{100 * (number(share) or 0):.2f}"


def _shown(folder: Path, shown: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "path": shown["path"],
        "pictures": [image_file(folder, shown[kind]) for kind in PICTURES],
        **{name: shown[name] for name in ("right", "missed", "wrong")},
    }
