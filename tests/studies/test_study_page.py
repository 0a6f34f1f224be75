"""The page of a study in a real browser, and what is written beside it."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from convatlas.record.reader import read_run
from convatlas.studies.design import Cell
from convatlas.studies.outcome import judge
from convatlas.studies.page import write_study
from convatlas.studies.values import Value, value_of_run
from tests.report.visit import Visit
from tests.studies.conftest import study_of

SKILLS: dict[tuple[str, Any], float] = {("deep", 0.1): 1.0, ("deep", 1.0): 1.4, ("flat", 0.1): 0.5, ("flat", 1.0): 0.7}


def written(asked: dict[str, Any], make_run: Any, output: Path, *, factor: bool, seeds: int = 3) -> dict[str, Path]:
    changes: dict[str, Any] = {"published": [{"arm": "deep", "value": 0.91, "source": "table <6>"}]}
    if factor:
        changes["factor"] = {"key": "optimizer.lr", "values": [0.1, 1.0], "select": "best"}
    study = study_of(asked, **changes)
    records = {
        cell: [
            read_run(make_run(seed=seed, skill=SKILLS[cell.arm, cell.value or 0.1], evaluation=False))
            for seed in study.seeds[:seeds]
        ]
        for cell in study.cells
    }
    values: dict[Cell, dict[tuple[int, ...], Value]] = {cell: {} for cell in records}
    for cell, runs in records.items():
        for run in runs:
            value, seed = value_of_run(run, study), run.config["seed"]
            assert value is not None
            values[cell][seed,] = Value(value.value + 0.002 * seed * (cell.arm == "deep"))
    return write_study(judge(study, values), records, ["trainer.max_epochs=12"], output)


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width", "factor"), [("light", 1280, False), ("dark", 700, True)])
def test_the_page(
    asked: dict[str, Any], make_run: Any, tmp_path: Path, browser: Browser, scheme: str, width: int, factor: bool
) -> None:
    files = written(asked, make_run, tmp_path, factor=factor)
    visit = Visit(browser, files["page"], color_scheme=scheme, viewport={"width": width, "height": 900})
    # A mean and its seeds for each arm; over the factor a line and the seeds at each value; mean and band of curves.
    drawn = {"dots": 4, "curve-top1": 8, "curve-loss": 8} | ({"factor": 6} if factor else {})
    assert visit.drawn() == drawn
    assert visit.page.locator("h1").inner_text() == asked["question"]
    assert visit.page.locator("table.findings tbody tr").count() == 1
    assert visit.page.locator("table.findings .state").inner_text() == "as expected"
    assert visit.page.locator("table.results tbody tr:visible").count() == (4 if factor else 2)
    assert visit.page.locator("table.results td.best").count() == (2 if factor else 0)
    assert "table <6>" in visit.page.locator("table.results").inner_text()
    assert "with trainer.max_epochs=12" in visit.page.locator(".about").first.inner_text()
    visit.check()


@pytest.mark.browser
def test_a_page_before_anything_has_run(asked: dict[str, Any], make_run: Any, tmp_path: Path, browser: Browser) -> None:
    files = written(asked, make_run, tmp_path, factor=True, seeds=0)
    visit = Visit(browser, files["page"])
    assert visit.page.locator("table.findings .state").inner_text() == "no result yet"
    assert visit.page.locator("table.results tbody tr:visible").count() == 4
    visit.check()


def test_the_same_as_markdown_and_as_data(asked: dict[str, Any], make_run: Any, tmp_path: Path) -> None:
    files = written(asked, make_run, tmp_path, factor=False)
    text = files["markdown"].read_text(encoding="utf-8")
    assert text.startswith("# Is &lt;b&gt;deep&lt;/b&gt; better?\n")
    assert "| deep better than flat | as expected | 3 |" in text
    data = json.loads(files["data"].read_text(encoding="utf-8"))
    rows = list(csv.DictReader(files["values"].open()))
    shown = [entry["value"] for entry in data["results"][0]["values"]]
    assert [float(row["value"]) for row in rows if row["arm"] == "deep"] == shown
    assert data["findings"][0]["verdict"] == "as expected"
    assert set(json.loads(files["figures"].read_text(encoding="utf-8"))) == {"dots", "curve-top1", "curve-loss"}
