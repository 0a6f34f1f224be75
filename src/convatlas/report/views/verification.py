"""The page of ``convatlas data verify``: the problems and the statistics of a data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convatlas.report.markup import TEMPLATES, picture
from convatlas.utils.files import write_atomic

ROWS = 100
"""Most findings of a kind on a page; the JSON file has all."""
PICTURES = 24
"""Most sets of equal images on a page."""
COPIES = 6
"""Most images of a set that are named."""
NAMED_CLASSES = 40
"""With at most this many classes, each has a bar with its name; more classes are shown as a sorted profile."""
PROFILE_BARS = 1000
"""Most bars of a profile, taken evenly from the classes."""


def write_verification_page(result: Mapping[str, Any], thumbnails: Sequence[bytes], output: Path) -> Path:
    """Write one self-contained HTML page about a data set.

    Args:
        result: What ``statistics`` gathers, and ``data``, the name of the data set.
        thumbnails: PNGs of the first sets of equal images, at most ``PICTURES``.
        output: Path of the page.

    Returns:
        ``output``.
    """
    of_kind = {name: [f for f in result["findings"] if f["kind"] == name] for name in result["kinds"]}
    page = TEMPLATES.get_template("verification.html.j2").render(
        result=result,
        clean=not (result["findings"] or result["equal_images"]),
        found={name: kind for name, kind in result["kinds"].items() if kind["count"]},
        findings={name: (rows[:ROWS], len(rows) - ROWS) for name, rows in of_kind.items() if rows},
        equal=[
            {**images, "picture": picture(thumbnail), "more": len(images["images"]) - COPIES}
            for images, thumbnail in zip(result["equal_images"], thumbnails, strict=False)
        ],
        copies=COPIES,
        balance=_balance(result["splits"]),
        splits=result["splits"],
        histogram=_histogram(result["splits"]),
    )
    write_atomic(output, page)
    return output


def _balance(splits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The class counts of each split, the largest first, as named bars or as a profile."""
    views = []
    for split, facts in splits.items():
        counts = sorted(facts["classes"]["counts"].items(), key=lambda item: -item[1])
        largest = counts[0][1]
        ranks = np.linspace(0, len(counts) - 1, min(len(counts), PROFILE_BARS)).round().astype(int).tolist()
        shown = [counts[rank] for rank in ranks]
        bars = [{"name": name, "count": count, "share": count / largest} for name, count in shown]
        views.append({"split": split, "named": len(counts) <= NAMED_CLASSES, "bars": bars, "largest": largest})
    return views


def _histogram(splits: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The histogram of the short sides of the images of all splits."""
    counts: dict[tuple[int, int], int] = {}
    for facts in splits.values():
        for bin in facts["sizes"]["short_side"]:
            edges = (bin["from"], bin["below"])
            counts[edges] = counts.get(edges, 0) + bin["count"]
    most = max(counts.values(), default=1)
    return [
        {"from": low, "to": below - 1, "count": count, "share": count / most}
        for (low, below), count in sorted(counts.items())
    ]
