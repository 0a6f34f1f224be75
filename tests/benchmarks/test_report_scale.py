import shutil
from pathlib import Path

import pytest
from hydra.utils import instantiate
from playwright.sync_api import sync_playwright

from benchmarks.report_scale import EPOCHS, SEEDS, measure_browser, write_runs
from convatlas.config.composition import compose
from convatlas.record.groups import group_runs
from convatlas.record.reader import read_run
from convatlas.report.page import write_report
from convatlas.report.selection import runs_in
from tests.report.visit import Visit


def test_the_written_runs_are_a_sweep_of_several_seeds(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", count=SEEDS + 2, steps=10 * EPOCHS, every=5)
    groups = group_runs([read_run(path) for path in runs_in(tmp_path / "runs")])
    assert [len(group.runs) for group in groups] == [SEEDS, 2]
    loss = groups[0].runs[0].series["train/loss"]
    assert len(loss.steps) == 2 * EPOCHS
    assert [group.settings["model.net.depth"] for group in groups] == [20, 56]


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_of_two_hundred_runs_draws_the_figures_that_are_seen(tmp_path: Path) -> None:
    """How many seconds it takes is printed by the benchmark, not asserted: it depends on the machine."""
    write_runs(tmp_path / "runs", count=200, steps=20 * EPOCHS, every=1)
    records = [read_run(path) for path in runs_in(tmp_path / "runs")]
    page, _ = write_report(records, tmp_path / "report.html", instantiate(compose("report").dashboard))
    assert page.stat().st_size < 20e6
    assert min(measure_browser(page, None).values()) > 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        visit = Visit(browser, page)
        seen, figures = (visit.page.locator(shown).count() for shown in (".plot:has(.trace)", ".plot"))
        assert seen < figures
        visit.check()
