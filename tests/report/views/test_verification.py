from pathlib import Path

import numpy as np
import pytest

from convatlas.data.class_list import ClassList
from convatlas.data.images.thumbnails import thumbnail_png
from convatlas.data.sources.images import ArraySource
from convatlas.data.tools.statistics import statistics
from convatlas.data.tools.verify import ImageFinding, Record, verify_source
from convatlas.report.views.verification import PICTURES, PROFILE_BARS, ROWS, write_verification_page
from tests.report.conftest import HOSTILE

NOISE = np.random.default_rng(0).integers(0, 255, (1200, 4, 4, 3)).astype(np.uint8)


def page(tmp_path: Path, images: np.ndarray, num_classes: int, findings: int = 0, name: str = "x") -> str:
    source = ArraySource(images, np.arange(len(images)) % num_classes, name)
    record: Record = verify_source(source, 3, 1, lambda count: None)
    record.findings += [ImageFinding(index, "damaged", name) for index in range(findings)]
    classes = ClassList(tuple(f"{name} {number}" for number in range(num_classes)))
    result = {"data": name, **statistics({"train": source}, {"train": record}, classes, 4)}
    thumbnails = [thumbnail_png(source.open(equal["images"][0]["index"]).pixels()) for equal in result["equal_images"]]
    return write_verification_page(result, thumbnails[:PICTURES], tmp_path / "page.html").read_text(encoding="utf-8")


def test_findings_are_bounded_and_the_page_says_so(tmp_path: Path) -> None:
    text = page(tmp_path, NOISE, 2, findings=ROWS + 20)
    assert text.count("<code>") == ROWS
    assert "and 20 more in verification.json" in text
    assert "training would stop" in text


def test_equal_images_are_bounded(tmp_path: Path) -> None:
    text = page(tmp_path, np.repeat(NOISE[: PICTURES + 5], 10, axis=0), 2)
    assert text.count("data:image/png") == PICTURES
    assert f"The first {PICTURES} of {PICTURES + 5} sets" in text
    assert "and 4 more in verification.json" in text


@pytest.mark.parametrize(("num_classes", "bars"), [(3, 3), (1000, 1000), (1200, PROFILE_BARS)])
def test_the_bars_of_classes_are_bounded(num_classes: int, bars: int, tmp_path: Path) -> None:
    text = page(tmp_path, NOISE, num_classes)
    drawn = text.split("<h2>Classes</h2>")[1].split("<h2>Sizes</h2>")[0]
    assert drawn.count("<i style=") == bars


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    images = np.concatenate([NOISE[:4], NOISE[:1]])
    text = page(tmp_path, images, 2, findings=1, name=HOSTILE)
    assert "<script" not in text
    assert "<img src=x" not in text
