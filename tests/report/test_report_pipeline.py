import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import check_config, compose
from convatlas.errors import UserError
from pipelines.report import TYPES, report


def config(**keys: Any) -> Any:
    texts = {key: str(value).replace("'", "") for key, value in keys.items()}
    found = compose("report", [f"{key}={text}" for key, text in texts.items()])
    check_config(found, TYPES)
    return found


def test_one_run_gets_its_report_inside(make_run: Any) -> None:
    run = make_run()
    result = report(config(run=str(run)))
    assert result["report"] == str(run / "report.html")
    assert result["markdown"] == str(run / "report.md")
    assert result["runs"] == [str(run)]
    assert (run / "report.html").stat().st_size == result["bytes"]


def test_several_runs_get_one_report_here(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [make_run(seed=seed, evaluation=False) for seed in (0, 1)]
    (tmp_path / "runs" / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert report(config(run=str(tmp_path / "runs" / "*")))["runs"] == [str(run) for run in runs]
    assert (tmp_path / "report.html").is_file()
    assert "| **" not in (tmp_path / "report.md").read_text(encoding="utf-8").split("## Runs")[0]
    both = [str(runs[1]), str(runs[0]), str(runs[1])]
    result = report(config(run=both, output=str(tmp_path / "both.html")))
    assert result["runs"] == [str(runs[1]), str(runs[0])]


def test_all_runs_of_a_folder_pass_a_filter_by_their_words(make_run: Any, tmp_path: Path) -> None:
    runs = [make_run(seed=seed, skill=skill, evaluation=False) for seed in (0, 1) for skill in (0.5, 1)]
    chosen = {"root": str(tmp_path / "runs"), "output": str(tmp_path / "report.html")}
    assert len(report(config(**chosen))["runs"]) == 4
    assert report(config(**chosen, filter="optimizer.lr:0.1 state:finished SEED:1"))["runs"] == [str(runs[3])]
    with pytest.raises(UserError, match=r"^filter=state:failed: none of 4 runs"):
        report(config(**chosen, filter="state:failed"))


PAGE = Path(__file__).parents[2] / "docs" / "dashboards.md"


@pytest.mark.parametrize(
    "command", re.findall(r"^\$ convatlas report (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
)
def test_the_documented_commands_run(
    command: str, make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("first", "second")):
        run = make_run(seed=seed, evaluation=False).rename(tmp_path / "runs" / name)
        text = (run / "config.yaml").read_text(encoding="utf-8")
        (run / "config.yaml").write_text(text.replace("  lr:", "  learning_rate:"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = compose("report", shlex.split(command))
    check_config(found, TYPES)
    assert len(report(found)["runs"]) == 2


@pytest.mark.parametrize("run", ["runs/nothing*", "absent", []])
def test_no_run_names_the_key(run: Any) -> None:
    with pytest.raises(UserError, match=r"^run="):
        report(config(run=run))


@pytest.mark.parametrize("keys", [{}, {"run": "a", "root": "b"}])
def test_run_and_root_exclude_each_other(keys: Any) -> None:
    with pytest.raises(UserError, match=r"^run or root: give one of them"):
        report(config(**keys))


def test_a_folder_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^root=.*: no run directory there"):
        report(config(root=str(tmp_path)))
    with pytest.raises(UserError, match=r"^root=.*: no such directory"):
        report(config(root=str(tmp_path / "absent")))


def test_an_output_that_cannot_be_written_names_the_key(make_run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in ("file/report.html", "report.pdf"):
        with pytest.raises(UserError, match=r"^output="):
            report(config(run=str(make_run(seed=len(output))), output=str(tmp_path / output)))
