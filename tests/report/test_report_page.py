import json
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from convatlas.config.composition import compose
from convatlas.record.quantities import duration_text, metric_label, metric_text, spread_text
from convatlas.record.reader import read_run
from convatlas.report.markup import image_file
from convatlas.report.page import DETAILED, build_report, write_report


def page_of(runs: list[Path], tmp_path: Path) -> str:
    """The page without Plotly's own script."""
    dashboard = instantiate(compose("report").dashboard)
    page, _ = write_report([read_run(run) for run in runs], tmp_path / "out" / "report.html", dashboard)
    return re.sub(r"<script>.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


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
        "From best to worst",
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
    shown = json.loads((run / "evaluation" / "test.json").read_text(encoding="utf-8"))
    shown["protocol"] = {"name": "ten_crop"}
    (run / "evaluation" / "test-ten_crop.json").write_text(json.dumps(shown), encoding="utf-8")
    page = page_of([run], tmp_path)
    assert "Evaluation on the test split</h2>" in page
    assert "Evaluation on the test split, ten_crop</h2>" in page


def test_sections_of_what_is_not_written_yet_are_left_out(hostile_run: Path, tmp_path: Path) -> None:
    page = page_of([hostile_run], tmp_path)
    for text in ("Confusion matrix", "Provenance", "Start-up", "Most confident", "Test top-1"):
        assert text not in page
    assert "Latest train loss" in page
    assert "train/loss has 2 non-finite values (first at step 31), left out." in page
    assert "The last line of metrics.jsonl is incomplete" in page


def test_a_run_without_any_metric_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n", encoding="utf-8")
    page = page_of([tmp_path], tmp_path)
    assert "Nothing was logged yet." in page


def test_names_cannot_become_markup(make_run: Any, hostile_run: Path, tmp_path: Path) -> None:
    other = make_run("</script><b>", classes=["<script>alert(3)</script>", "'\"><img src=x>", *"cdefghij"])
    page = page_of([hostile_run, other], tmp_path)
    for markup in ("<script>alert", "<img src=x", "</script><b>"):
        assert markup not in page


def test_several_configurations_are_compared(make_run: Any, tmp_path: Path) -> None:
    runs = [make_run(seed=0), make_run(seed=1), make_run(seed=0, skill=0.5)]
    page = page_of(runs, tmp_path)
    assert "3 runs compared" in page
    assert "2 configurations" in page
    assert "resnet20_cifar10 · lr 0.1</th>" in page
    assert re.search(r"\d\d\.\d\d ± \d\.\d\d %</td>", page)
    assert "resnet20_cifar10-0f3a9c21-s1</th>" in page
    assert page.count("data-toggle=") == 2
    assert 'id="hyperparameters"' in page


def test_the_best_configuration_comes_first(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run(seed=0, skill=skill) for skill in (0.5, 2, 1)], tmp_path)
    results = page.split("<h2>Results</h2>")[1].split("</table>")[0]
    assert re.findall(r"lr (\S+)</th>", results) == ["0.2", "0.1", "0.05"]


def test_of_many_runs_the_best_are_shown_in_detail(make_run: Any, tmp_path: Path) -> None:
    runs = [make_run(seed=seed, skill=skill) for seed in range(3) for skill in (0.5, 1)]
    page = page_of(runs, tmp_path)
    assert f"In detail: the {DETAILED} runs with the best result." in page
    shown = re.findall(r"(resnet\S+): evaluation", page)
    assert len(shown) == DETAILED
    assert sorted(run for run in shown if "0f3a9c21" in run) == [f"resnet20_cifar10-0f3a9c21-s{s}" for s in range(3)]


def test_what_the_recipe_expects_stands_beside_the_result(make_run: Any, tmp_path: Path) -> None:
    expected = [{"metric": "test/top1", "value": 0.99, "tolerance": 0.001, "source": "ResNet, table 6 <b>"}]
    page = page_of([make_run(expected=expected)], tmp_path)
    table = page.split("<h2>Beside what was expected</h2>")[1].split("</table>")[0]
    assert "99.00 ± 0.10 %" in table
    assert 'class="state worse"' in table
    assert "ResNet, table 6 &lt;b&gt;" in table


def test_pictures_run_from_the_best_to_the_worst(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run()], tmp_path)
    gallery = page.split("From best to worst")[1].split("</ul>")[0]
    verdicts = re.findall(r'class="verdict (right|wrong)"', gallery)
    assert verdicts == sorted(verdicts)
    assert {"right", "wrong"} == set(verdicts)


def test_a_damaged_evaluation_is_named(make_run: Any, tmp_path: Path) -> None:
    run = make_run()
    (run / "evaluation" / "test.json").write_text("{", encoding="utf-8")
    page = page_of([run], tmp_path)
    assert "evaluation/test.json: damaged, expected a JSON object" in page
    assert "Confusion matrix" not in page


def test_no_run_at_all_is_a_page_too(dashboard: Any) -> None:
    report = build_report([], dashboard)
    assert "No run here yet." in report.sections["header"]
    assert not report.figures


def test_the_page_refers_to_nothing_outside(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run()], tmp_path)
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "url(" not in page


def test_a_large_matrix_lists_its_confusions(make_run: Any, tmp_path: Path) -> None:
    page = page_of([make_run(classes=[f"class {index}" for index in range(30)])], tmp_path)
    assert "Most frequent confusions" in page


@pytest.mark.parametrize("name", ["../secret.png", "absent.png", "text.png"])
def test_only_images_of_the_evaluation_are_shown(tmp_path: Path, make_run: Any, name: str) -> None:
    run = make_run()
    picture = run / "evaluation" / "test" / "000000.png"
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture.read_bytes())
    (folder / "text.png").write_text("no image", encoding="utf-8")
    assert image_file(folder, name) is None
    assert image_file(run / "evaluation", "test/000000.png") is not None


def test_no_secret_of_the_environment_is_in_a_report(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "5ec2e7" * 7)
    page_of([make_run()], tmp_path)
    for file in (tmp_path / "out").iterdir():
        assert "5ec2e7" not in file.read_text(encoding="utf-8")


def test_numbers_read_well() -> None:
    assert metric_label("test/top1") == "Test top-1"
    assert metric_text("test/top1", 0.9231) == "92.31 %"
    assert metric_text("test/mean_iou", 0.5) == "50.00 %"
    assert metric_text("val/loss", 0.412345) == "0.4123"
    assert metric_text("val/loss", "NaN") == "NaN"
    assert metric_text("val/loss", None) == "–"
    assert spread_text("test/top1", 0.9231, 0.0031) == "92.31 ± 0.31 %"
    assert spread_text("test/loss", 0.4123, None) == "0.4123"
    assert [duration_text(seconds) for seconds in (1.23, 65, 7384)] == ["1.2 s", "1 min 5 s", "2 h 3 min"]
