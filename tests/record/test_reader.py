import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convatlas.errors import UserError
from convatlas.record.reader import RunReader, read_run


def test_reads_a_finished_run(make_run: Any) -> None:
    run = read_run(make_run())
    assert (run.name, run.state, run.torn) == ("resnet20_cifar10", "finished", False)
    assert run.config["model"]["name"] == "resnet20_cifar"
    assert run.provenance["python"] == "3.11.7"
    assert list(run.results) == ["test/top1", "test/top5", "test/loss"]
    assert list(run.evaluations()) == ["test"]
    loss = run.series["train/loss"]
    assert loss.steps.tolist() == list(range(1, 481))
    assert loss.epochs[[0, -1]].tolist() == [0, 11]


def test_a_run_that_only_just_started_has_a_config_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n", encoding="utf-8")
    run = read_run(tmp_path)
    assert run.state == "started"
    assert run.name == tmp_path.name
    assert not run.series
    assert not run.evaluations()
    assert not run.provenance


def test_a_torn_last_line_is_left_out_and_said(hostile_run: Path) -> None:
    run = read_run(hostile_run)
    assert run.torn
    loss = run.series["train/loss"]
    assert loss.steps[-1] == 199
    assert np.isnan(loss.means[[30, 31]]).all()
    assert (loss.gaps.sum(), loss.first_gap) == (2, 31)


def test_a_run_that_did_not_change_is_not_read_again(make_run: Any) -> None:
    run = make_run()
    reader = RunReader(run)
    first = reader.read()
    assert reader.read() is first
    (run / "summary.json").write_text(json.dumps({**first.summary, "state": "failed"}), encoding="utf-8")
    assert reader.read().state == "failed"
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 481, "epoch": 12, "time": 1.0, "train/loss": 0.5}) + "\n")
    assert reader.read().series["train/loss"].last == 0.5
    assert first.series["train/loss"].steps[-1] == 480


def test_a_run_that_calls_itself_running_may_not_be(make_run: Any) -> None:
    alive = True
    reader = RunReader(make_run(), lambda path: f"{path.name} {alive}")
    first = reader.read()
    alive = False
    assert (first.state, reader.read().state) == ("run-0f3a9c21-0 True", "run-0f3a9c21-0 False")
    assert reader.read() is reader.read()


@pytest.mark.parametrize("path", ["absent", "."])
def test_what_is_no_run_directory_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"expected a run directory, but it has no config\.yaml"):
        read_run(tmp_path / path)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_summary_is_named(make_run: Any, text: str) -> None:
    run = make_run()
    (run / "summary.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"summary\.json: damaged, expected"):
        read_run(run)
