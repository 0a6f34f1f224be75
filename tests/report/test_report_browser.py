"""The pages in a real browser: drawn, silent, and without a request."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from convatlas.config import compose
from convatlas.report.page import write_report
from convatlas.report.predictions import write_prediction_page
from pipelines.data_verify import data_verify
from tests.fixtures import write_faulty_folder

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is on PATH"),
]
BUTTONS = {"Download plot as a PNG", "Zoom", "Pan", "Reset axes"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that was opened, with everything that it said and asked for."""

    def __init__(self, browser: Browser, path: Path, **options: Any) -> None:
        self.page: Page = browser.new_page(**options)
        self.troubles: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("networkidle")
        self.address = path.as_uri()

    def _dismiss(self, dialog: Dialog) -> None:
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def check(self) -> None:
        assert self.troubles == []
        assert {url for url in self.requests if not url.startswith("data:")} == {self.address}
        width = "[document.documentElement.scrollWidth, innerWidth]"
        content, window = self.page.evaluate(width)
        assert content <= window

    def drawn(self) -> dict[str, int]:
        """Traces drawn in each figure."""
        script = """() => Object.fromEntries([...document.querySelectorAll(".plot")].map((plot) => [plot.id,
            plot.querySelectorAll("svg .scatterlayer .trace, svg .heatmaplayer .hm, svg .barlayer .trace").length]))"""
        drawn: dict[str, int] = self.page.evaluate(script)
        return drawn


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 700)])
def test_one_run(browser: Browser, make_run: Any, tmp_path: Path, scheme: str, width: int) -> None:
    path = write_report([make_run()], tmp_path / "report.html")
    visit = Visit(browser, path, color_scheme=scheme, viewport={"width": width, "height": 900})
    assert visit.drawn() == {
        "curve-loss": 3,
        "curve-top1": 2,
        "curve-top5": 1,
        "curve-learning_rate": 1,
        "curve-images_per_second": 1,
        "curve-data_wait": 1,
        "run-0-test-confusion": 1,
        "run-0-test-classes": 1,
    }
    assert visit.page.locator(".gallery img").count() == 48
    assert visit.page.evaluate("[...document.images].every((image) => image.naturalWidth === 32)")
    titles = visit.page.eval_on_selector_all(".modebar-btn", "buttons => buttons.map((b) => b.dataset.title)")
    assert set(titles) == BUTTONS  # none that sends a figure to a server
    visit.check()


def test_figures_follow_the_scheme(browser: Browser, make_run: Any, tmp_path: Path) -> None:
    visit = Visit(browser, write_report([make_run(evaluation=False)], tmp_path / "report.html"))
    colour = "document.getElementById('curve-loss').layout.font.color"
    visit.page.emulate_media(color_scheme="light")
    light = visit.page.evaluate(colour)
    visit.page.emulate_media(color_scheme="dark")
    # Media changes are told before the animation frame; the page's policy forbids wait_for_function's eval.
    visit.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert visit.page.evaluate(colour) != light
    visit.check()


def test_a_run_is_hidden_in_every_figure(browser: Browser, make_run: Any, tmp_path: Path) -> None:
    runs = [make_run(seed=seed, evaluation=False) for seed in (0, 1)]
    visit = Visit(browser, write_report(runs, tmp_path / "report.html"))
    assert visit.drawn()["curve-loss"] == 4
    visit.page.locator("[data-run='1']").click()
    assert visit.drawn()["curve-loss"] == 2
    assert visit.drawn()["curve-learning_rate"] == 1
    visit.page.locator("[data-run='1']").click()
    assert visit.drawn()["curve-loss"] == 4
    visit.check()


def test_hostile_names_stay_text(browser: Browser, make_run: Any, hostile_run: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'<img src=x onerror=alert(2)>"
    other = make_run(hostile, classes=[hostile, "b<b>c", *"cdefghij"])
    visit = Visit(browser, write_report([hostile_run, other], tmp_path / "report.html"))
    assert hostile in visit.page.locator("table.comparison").inner_text()
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
