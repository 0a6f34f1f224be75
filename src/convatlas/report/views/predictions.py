"""The page of ``convatlas predict``: every image with its predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convatlas.record.quantities import metric_text
from convatlas.report.markup import TEMPLATES, picture
from convatlas.utils.files import write_atomic

MAX_IMAGES = 500
"""Most images on a page; a larger file is slow in a browser."""


def write_prediction_page(
    rows: Sequence[Mapping[str, Any]], output: Path, remark: str = "the most probable classes of each"
) -> Path:
    """Write one self-contained HTML page with the first ``MAX_IMAGES`` images and their classes.

    Args:
        rows: One mapping an image: ``path``, ``prediction`` (class name), ``confidence``, ``top`` (a list of
            ``class`` and ``probability``, the best first, and maybe ``colour``) and ``thumbnail`` (the bytes of a PNG).
        output: Path of the page; its folder is created.
        remark: Explanation of the numbers.

    Returns:
        ``output``.
    """
    page = TEMPLATES.get_template("predictions.html.j2").render(
        rows=[_view(row) for row in rows[:MAX_IMAGES]], total=len(rows), remark=remark
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, page)
    return output


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "image": picture(row["thumbnail"]),
        "path": str(row["path"]),
        "name": Path(row["path"]).name,
        "prediction": row["prediction"],
        "confidence": metric_text("top1", row["confidence"], digits=1),
        "top": [
            {
                "class": item["class"],
                "text": metric_text("top1", item["probability"], digits=1),
                "colour": item.get("colour"),
                "width": f"{100 * item['probability']:.2f}",
            }
            for item in row["top"]
        ],
    }
