"""The pages in a real browser: drawn, silent, and without a request."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from convatlas.config.composition import compose
from convatlas.record.reader import read_run
from convatlas.report.figures.panels import Dashboard
from convatlas.report.page import write_report
from convatlas.report.views.predictions import write_prediction_page
from pipelines.data_verify import data_verify
from tests.fixtures import write_faulty_folder
from tests.report.visit import Visit

pytestmark = pytest.mark.browser
BUTTONS = {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}


WriteReport = Callable[[Sequence[Path]], Path]


@pytest.fixture
def report_of(tmp_path: Path, dashboard: Dashboard) -> WriteReport:
    """Writes the report of run directories."""

    def write(runs: Sequence[Path]) -> Path:
        return write_report([read_run(run) for run in runs], tmp_path / "report.html", dashboard)[0]

    return write


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 700)])
def test_one_run(browser: Browser, make_run: Any, report_of: WriteReport, scheme: str, width: int) -> None:
    path = report_of([make_run()])
    visit = Visit(browser, path, color_scheme=scheme, viewport={"width": width, "height": 900})
    assert visit.drawn() == {
        "curve-loss": 3,
        "curve-top1": 2,
        "curve-top5": 1,
        "curve-learning_rate": 1,
        "curve-throughput": 2,
        "curve-data_wait": 2,
        "run-0-test-confusion": 1,
        "run-0-test-classes": 1,
    }
    assert visit.page.locator(".gallery img").count() == 48
    assert visit.page.evaluate("[...document.images].every((image) => image.naturalWidth === 32)")
    titles = visit.page.eval_on_selector_all(".modebar-btn", "buttons => buttons.map((b) => b.dataset.title)")
    assert set(titles) == BUTTONS  # none that sends a figure to a server
    visit.check()


def test_figures_follow_the_scheme(browser: Browser, make_run: Any, report_of: WriteReport) -> None:
    visit = Visit(browser, report_of([make_run(evaluation=False)]))
    assert visit.drawn()["curve-loss"] == 3
    colour = "document.getElementById('curve-loss').layout.font.color"
    visit.page.emulate_media(color_scheme="light")
    light = visit.page.evaluate(colour)
    visit.page.emulate_media(color_scheme="dark")
    # Media changes are told before the animation frame; the page's policy forbids wait_for_function's eval.
    visit.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert visit.page.evaluate(colour) != light
    visit.check()


def test_a_configuration_is_hidden_in_every_figure(browser: Browser, make_run: Any, report_of: WriteReport) -> None:
    visit = Visit(browser, report_of([make_run(skill=skill, evaluation=False) for skill in (1, 0.5)]))
    assert visit.drawn()["curve-loss"] == 6
    visit.page.locator("[data-toggle='1']").click()
    assert visit.drawn()["curve-loss"] == 3
    assert visit.drawn()["curve-learning_rate"] == 1
    assert visit.drawn()["hyperparameters"] == 1
    visit.page.locator("[data-toggle='1']").click()
    assert visit.drawn()["curve-loss"] == 6
    visit.check()


def test_the_filter_narrows_tables_and_figures(browser: Browser, make_run: Any, report_of: WriteReport) -> None:
    runs = [make_run(seed=seed, skill=skill, evaluation=False) for skill in (1, 0.5, 2) for seed in (0, 1)]
    visit = Visit(browser, report_of(runs))
    rows = visit.page.locator("table.runs tbody tr:visible")
    groups = visit.page.locator("table.results tbody tr:visible")
    assert (rows.count(), groups.count(), visit.drawn()["curve-top1"]) == (6, 3, 12)
    visit.page.locator(".filter input").fill("lr:0.1 SEED:1")
    assert visit.page.locator(".filter output").inner_text() == "1 of 6 runs"
    assert rows.locator("th").all_inner_texts() == ["resnet20_cifar10-0f3a9c21-s1"]
    assert (groups.count(), visit.drawn()["curve-top1"], visit.drawn()["hyperparameters"]) == (1, 4, 1)
    assert visit.page.locator("[data-toggle]:visible").count() == 1
    visit.page.locator(".filter input").fill("nothing has this")
    assert (rows.count(), groups.count(), visit.drawn()["curve-top1"]) == (0, 0, 0)
    visit.page.locator(".filter input").fill("")
    assert (rows.count(), visit.drawn()["curve-top1"]) == (6, 12)
    visit.check()


def test_hovering_tells_the_mean_and_its_spread(browser: Browser, make_run: Any, report_of: WriteReport) -> None:
    runs = [make_run(seed=seed, skill=skill, evaluation=False) for skill in (1, 0.5) for seed in (0, 1)]
    visit = Visit(browser, report_of(runs))
    visit.drawn()
    tooltip = visit.hover("curve-top1", trace=3, point=8)  # of the first configuration: validation's line
    assert re.fullmatch(r"resnet20_cifar10 · lr 0.1, validationstep 360: \d\d.\d\d% ± \d.\d\d%, 2 of 2 runs", tooltip)
    visit.check()


def test_a_table_is_sorted_by_the_heading_that_is_chosen(
    browser: Browser, make_run: Any, report_of: WriteReport
) -> None:
    visit = Visit(browser, report_of([make_run(skill=skill, evaluation=False) for skill in (1, 0.5, 2)]))
    heading = visit.page.locator("table.runs thead button", has_text="lr")
    column = visit.page.locator("table.runs tbody td:nth-child(7)")
    assert column.all_inner_texts() == ["0.1", "0.05", "0.2"]
    heading.click()
    assert column.all_inner_texts() == ["0.2", "0.1", "0.05"]
    heading.click()
    assert column.all_inner_texts() == ["0.05", "0.1", "0.2"]
    assert visit.page.locator("table.runs th[aria-sort=ascending]").inner_text() == "lr"
    visit.check()


def test_hostile_names_stay_text(browser: Browser, make_run: Any, hostile_run: Path, report_of: WriteReport) -> None:
    hostile = "<script>alert(1)</script>\"'<img src=x onerror=alert(2)>"
    other = make_run(hostile, classes=[hostile, "b<b>c", *"cdefghij"])
    visit = Visit(browser, report_of([hostile_run, other]))
    assert hostile in visit.page.locator("table.results").inner_text()
    assert visit.page.locator("img[src=x]").count() == 0
    assert all(visit.drawn().values())
    visit.page.locator("#run-1-test-confusion").scroll_into_view_if_needed()
    visit.page.locator("#run-1-test-confusion .nsewdrag").hover(position={"x": 15, "y": 15})
    tooltip = visit.page.locator("#run-1-test-confusion .hovertext")
    tooltip.wait_for()
    assert "<script>alert(1)</script>" in str(tooltip.text_content())
    visit.check()


def test_prediction_page(browser: Browser, make_run: Any, tmp_path: Path) -> None:
    thumbnail = (make_run() / "evaluation" / "test" / "000000.png").read_bytes()
    name = "<script>alert(1)</script>"
    row = {"path": name, "prediction": name, "confidence": 1.0, "top": [{"class": name, "probability": 1.0}]}
    path = write_prediction_page([row | {"thumbnail": thumbnail}] * 3, tmp_path / "predictions.html")
    visit = Visit(browser, path)
    assert visit.page.evaluate("[...document.images].map((image) => image.naturalWidth)") == [32, 32, 32]
    visit.check()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 700)])
def test_verification_page(browser: Browser, tmp_path: Path, scheme: str, width: int) -> None:
    root = tmp_path / "<script>alert(1)</script>\"'<img src=x onerror=alert(2)>".replace("/", "_")
    write_faulty_folder(root)
    source = "data.root='" + str(root).replace("'", "\\'") + "'"
    result = data_verify(compose("data_verify", [f"output={tmp_path}", "data=imagefolder", source, "threads=2"]))
    visit = Visit(browser, Path(result["page"]), color_scheme=scheme, viewport={"width": width, "height": 900})
    assert visit.page.locator(".state").inner_text() == "training would stop"
    assert visit.page.locator("details[open]").count() == 6  # a table for each kind of error
    assert visit.page.locator("details:not([open])").count() == 5
    assert visit.page.evaluate("[...document.images].map((image) => image.naturalWidth)") == [48, 48, 48]
    assert visit.page.locator(".bars i").evaluate_all("bars => bars.every((bar) => bar.offsetWidth > 1)")
    assert str(root) in visit.page.locator("header").inner_text()
    visit.check()
