"""The live dashboard in a real browser: it follows runs, quietly, and asks nobody but its server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from convatlas.report.server import ReportServer
from convatlas.utils.files import write_atomic
from tests.report.visit import Visit

pytestmark = pytest.mark.browser
Serve = Callable[[], ReportServer]


def log(run: Path, step: int, **metrics: float) -> None:
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        line = {"step": step, "epoch": 12, "time": 1.7e9 + 0.2 * step}
        file.write(json.dumps(line | {name.replace("_", "/", 1): value for name, value in metrics.items()}) + "\n")


def update(run: Path, **entries: Any) -> None:
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    write_atomic(run / "summary.json", json.dumps(summary | entries))  # the server reads it meanwhile


def test_curves_and_tables_follow_the_runs(browser: Browser, make_run: Any, serve: Serve) -> None:
    run = make_run(seed=0, evaluation=False)
    update(run, state="running")
    visit = Visit(browser, serve().url)
    assert visit.drawn()["curve-loss"] == 3
    expect(visit.page.locator("h1 + .state")).to_have_text("running")
    visit.page.locator("#curve-top1").scroll_into_view_if_needed()
    log(run, 500, val_top1=0.987)
    visit.wait_for("document.getElementById('curve-top1').data[1].y.at(-1)", 0.987)
    update(run, state="finished")
    expect(visit.page.locator("h1 + .state")).to_have_text("finished")
    visit.check()


def test_a_new_run_and_its_first_metric_appear_and_the_filter_stays(
    browser: Browser, make_run: Any, serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "runs").mkdir()
    visit = Visit(browser, serve().url)
    expect(visit.page.locator(".empty")).to_contain_text("No run here yet")
    visit.page.locator(".filter input").fill("seed:1")
    first = make_run(seed=0, evaluation=False)
    expect(visit.page.locator(".filter output")).to_have_text("0 of 1 runs")
    make_run(seed=1, evaluation=False)
    expect(visit.page.locator("h1")).to_have_text("2 runs compared")
    expect(visit.page.locator("table.runs tbody tr:visible th")).to_have_text(["resnet20_cifar10-0f3a9c21-s1"])
    expect(visit.page).to_have_title("2 runs · ConvAtlas")
    log(first, 500, val_mean_iou=0.5)
    expect(visit.page.locator("[id='curve-mean_iou']")).to_have_count(1)
    assert visit.drawn()["curve-mean_iou"] == 1
    visit.check()


def test_a_server_that_is_gone_is_said(browser: Browser, make_run: Any, serve: Serve) -> None:
    make_run(seed=0, evaluation=False)
    server = serve()
    visit = Visit(browser, server.url)
    expect(visit.page.locator(".live")).to_contain_text("live, ")
    server.shutdown()
    server.server_close()
    expect(visit.page.locator(".live")).to_contain_text("does not answer")
    assert visit.page.locator("h1").inner_text() == "resnet20_cifar10"


def test_hostile_names_stay_text(browser: Browser, make_run: Any, hostile_run: Path, serve: Serve) -> None:
    hostile = "<script>alert(1)</script>\"'<img src=x onerror=alert(2)>"
    make_run(hostile, evaluation=False)
    visit = Visit(browser, serve().url)
    visit.drawn()
    with (hostile_run / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.write(json.dumps({"step": 1, "epoch": 0, "time": 1.0, "train/<img src=x onerror=alert(3)>": 1.0}) + "\n")
    update(hostile_run, name=hostile * 2)
    expect(visit.page.locator("table.results")).to_contain_text(hostile * 2)
    assert visit.page.locator("img[src=x]").count() == 0
    visit.check()
