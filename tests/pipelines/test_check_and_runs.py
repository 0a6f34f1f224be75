from pathlib import Path
from typing import Any

import pytest

from convatlas.config import compose
from convatlas.errors import UserError
from pipelines.check import check
from pipelines.runs import runs
from tests.conftest import SMALL


def test_check_reads_one_batch_and_writes_nothing(tmp_path: Path) -> None:
    found = check(compose("check", ["experiment=quickstart", f"run.root={tmp_path / 'runs'}"]))
    assert found["batch"].startswith("(64, 1, 32, 32) forward and backward, loss ")
    assert found["class_list"].startswith("10 classes, hash ")
    assert found["data"] == "4,500 train, 500 val, 1,000 test"
    assert found["run"].endswith("(new)")
    assert list(tmp_path.iterdir()) == []


def test_check_knows_the_run_that_train_made(trained: dict[str, Any]) -> None:
    found = check(compose("check", [*SMALL, f"run.root={Path(trained['run']).parent}"]))
    assert found["run"] == f"{trained['run']} (finished)"


def test_check_measures_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1024})())
    with pytest.raises(UserError, match=r"run\.root=.*0 MiB free"):
        check(compose("check", [f"run.root={tmp_path}"]))


def test_runs_lists_the_state_and_the_best_metric(trained: dict[str, Any]) -> None:
    listed = runs(compose("runs", [f"root={Path(trained['run']).parent}"]))["runs"]
    (summary,) = [summary for summary in listed if summary["run"] == trained["run"]]
    assert summary["state"] == "finished"
    assert summary["best"]["metric"] == "val/top1"


def test_runs_names_a_missing_root() -> None:
    with pytest.raises(UserError, match="root=/nowhere"):
        runs(compose("runs", ["root=/nowhere"]))
