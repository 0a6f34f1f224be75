from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from convatlas.errors import UserError
from pipelines.report import report


def config(run: Any, output: Path | None = None) -> Any:
    return OmegaConf.create({"run": run, "output": output and str(output), "format": "text"})


def test_one_run_gets_its_report_inside(make_run: Any) -> None:
    run = make_run()
    result = report(config(str(run)))
    assert result["report"] == str(run / "report.html")
    assert result["runs"] == [str(run)]
    assert (run / "report.html").stat().st_size == result["bytes"]


def test_several_runs_get_one_report_here(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make_run(seed=seed, evaluation=False) for seed in (0, 1)]
    (tmp_path / "runs" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert report(config(str(tmp_path / "runs" / "*")))["runs"] == [str(run) for run in runs]
    assert (tmp_path / "report.html").is_file()
    result = report(config([str(runs[1]), str(runs[0]), str(runs[1])], tmp_path / "both.html"))
    assert result["runs"] == [str(runs[1]), str(runs[0])]


@pytest.mark.parametrize("run", ["runs/nothing*", "absent", []])
def test_no_run_names_the_key(run: Any) -> None:
    with pytest.raises(UserError, match=r"^run="):
        report(config(run))


def test_an_output_that_cannot_be_written_names_the_key(make_run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^output="):
        report(config(str(make_run()), tmp_path / "file" / "report.html"))
