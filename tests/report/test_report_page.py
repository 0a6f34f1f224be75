import json
import re
from pathlib import Path
from typing import Any

import pytest

from convatlas.errors import UserError
from convatlas.report.figures import class_accuracies, confusion_matrix, curves
from convatlas.report.markup import image_file, metric_label, metric_text
from convatlas.report.page import duration_text, write_report
from convatlas.report.run_record import read_run
from convatlas.report.series import MAX_POINTS


def page_of(runs: list[Path], tmp_path: Path) -> str:
    """The page without Plotly's own script."""
    text = write_report(runs, tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_one_run_shows_headline_evaluation_and_origin(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run()], tmp_path)
    for text in (
        "resnet20_cifar10",
        "finished",
        "Test top-1",
        "Best val top-1",
        "1 h 10 min",
        "269,722",
        "Most confident mistakes",
        "A sample of predictions",
        "Confusion matrix",
        "Accuracy of each class",
        "commit 0123456789, with uncommitted changes",
        "5.6 s before the first step",
    ):
        assert text in page
    assert page.count("data:image/png;base64,") == 48
    assert "✓ " in page
    assert "✗ " in page


def test_each_protocol_has_its_own_section(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    shown = json.loads((run / "evaluation" / "test.json").read_text())
    shown["protocol"] = {"name": "ten_crop"}
    (run / "evaluation" / "test-ten_crop.json").write_text(json.dumps(shown))
    page = page_of([run], tmp_path)
    assert "Evaluation on the test split</h2>" in page
    assert "Evaluation on the test split, ten_crop</h2>" in page


def test_sections_of_what_is_not_written_yet_are_left_out(hostile_run: Path, tmp_path: Path) -> None:
    page = page_of([hostile_run], tmp_path)
    for text in ("Confusion matrix", "Provenance", "Start-up", "Most confident", "Test top-1"):
        assert text not in page
    assert "Latest train loss" in page
    assert "train/loss has 2 non-finite values (first at step 31), shown as gaps." in page
    assert "The last line of metrics.jsonl is incomplete" in page


def test_a_run_without_any_metric_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    page = page_of([tmp_path], tmp_path)
    assert "Nothing was logged yet." in page


def test_names_cannot_become_markup(make_run: Any, hostile_run: Path, tmp_path: Path) -> None:
    other = make_run("</script><b>", classes=["<script>alert(3)</script>", "'\"><img src=x>", *"cdefghij"])
    page = page_of([hostile_run, other], tmp_path)
    for markup in ("<script>alert", "<img src=x", "</script><b>"):
        assert markup not in page


def test_several_runs_are_compared(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run(seed=0), make_run(seed=1, skill=0.5)], tmp_path)
    assert "2 runs compared" in page
    assert "optimizer.lr" in page
    assert "weight_decay</code>" not in page  # the same in both
    assert "resnet20_cifar10-0f3a9c21-s1" in page  # two runs of one name are told apart
    assert page.count("aria-pressed") - page.count('[aria-pressed="false"]') == 2


def test_the_page_refers_to_nothing_outside(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run()], tmp_path)
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "url(" not in page


def test_curves_are_bounded_and_gaps_are_null(make_run: Any, hostile_run: Path) -> None:
    long = read_run(make_run(steps=6000))
    panels = curves([long, read_run(hostile_run)], ["a", "b"])
    assert [panel.quantity for panel in panels][:3] == ["loss", "top1", "top5"]
    for panel in panels:
        for trace in panel.figure["data"]:
            assert 0 < len(trace["x"]) == len(trace["y"]) <= MAX_POINTS
    hostile = panels[0].figure["data"][-1]
    assert hostile["y"][30] is None
    assert hostile["y"][31] is None
    json.dumps([panel.figure for panel in panels], allow_nan=False)


def test_one_run_shows_what_was_logged_behind_the_smoothed_line(make_run: Any) -> None:
    loss = curves([read_run(make_run())], ["a"])[0]
    logged, train, validation = loss.figure["data"]
    assert logged["hoverinfo"] == "skip"
    assert train["customdata"][100][0] == logged["y"][100] != train["y"][100]
    assert validation["mode"] == "lines+markers"


def test_only_a_small_confusion_matrix_has_text_in_its_cells(make_run: Any) -> None:
    small = confusion_matrix(read_run(make_run()).evaluations["test"])
    names = [f"class {index}" for index in range(30)]
    large = confusion_matrix(read_run(make_run(seed=1, classes=names)).evaluations["test"])
    assert "texttemplate" in small["data"][0]
    assert "texttemplate" not in large["data"][0]
    assert len(large["layout"]["xaxis"]["tickvals"]) <= 20
    for row in small["data"][0]["z"]:
        assert sum(row) == pytest.approx(1, abs=1e-3)


def test_a_large_matrix_lists_its_confusions(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run(classes=[f"class {index}" for index in range(30)])], tmp_path)
    assert "Most frequent confusions" in page


def test_class_bars_are_sorted_and_leave_out_classes_without_images() -> None:
    rows = [("a", 0.5, 4), ("b", None, 0), ("c", 0.75, 4)]
    evaluation = {"per_class": [{"class": name, "accuracy": value, "count": count} for name, value, count in rows]}
    bars = class_accuracies(evaluation)["data"][0]
    assert bars["y"] == ["c", "a"]
    assert bars["x"] == [0.75, 0.5]


@pytest.mark.parametrize("name", ["../secret.png", "absent.png", "text.png"])
def test_only_images_of_the_evaluation_are_shown(tmp_path: Path, make_run: Any, name: str) -> None:
    run = make_run()
    picture = run / "evaluation" / "test" / "000000.png"
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture.read_bytes())
    (folder / "text.png").write_text("no image")
    assert image_file(folder, name) is None
    assert image_file(run / "evaluation", "test/000000.png") is not None


def test_a_path_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(str(tmp_path))):
        write_report([tmp_path], tmp_path / "report.html")


def test_numbers_read_well() -> None:
    assert metric_label("test/top1") == "Test top-1"
    assert metric_text("test/top1", 0.9231) == "92.31 %"
    assert metric_text("val/loss", 0.412345) == "0.4123"
    assert metric_text("val/loss", "NaN") == "NaN"
    assert metric_text("val/loss", None) == "–"
    assert [duration_text(seconds) for seconds in (1.23, 65, 7384)] == ["1.2 s", "1 min 5 s", "2 h 3 min"]
