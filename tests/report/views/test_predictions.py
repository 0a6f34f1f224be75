from pathlib import Path
from typing import Any

from convatlas.report.views.predictions import MAX_IMAGES, write_prediction_page


def row(path: str, name: str, thumbnail: bytes) -> dict[str, Any]:
    top = [{"class": name, "probability": 0.75}, {"class": "other", "probability": 0.25}]
    return {"path": path, "prediction": name, "confidence": 0.75, "top": top, "thumbnail": thumbnail}


def test_every_image_has_its_classes_and_bars(tmp_path: Path, make_run: Any) -> None:
    thumbnail = (make_run() / "evaluation" / "test" / "000000.png").read_bytes()
    page = write_prediction_page([row("a/b.png", "cat", thumbnail)], tmp_path / "new" / "page.html").read_text(
        encoding="utf-8"
    )
    assert page.count("data:image/png") == 1
    assert "75.0 %" in page
    assert "width: 25.00%" in page
    assert "1 image ·" in page


def test_the_page_is_bounded_and_says_so(tmp_path: Path) -> None:
    rows = [row(f"{index}.png", "cat", b"no image") for index in range(MAX_IMAGES + 20)]
    page = write_prediction_page(rows, tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("no image") == MAX_IMAGES
    assert "first 500 of 520 images" in page


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    page = write_prediction_page([row('"><script>x</script>', "<b>cat</b>", b"")], tmp_path / "page.html").read_text(
        encoding="utf-8"
    )
    assert "<script" not in page
    assert "<b>" not in page
