import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convatlas.errors import UserError
from convatlas.report.run_record import read_metrics, read_run


def test_reads_a_finished_run(make_run: Any) -> None:
    run = read_run(make_run())
    assert (run.name, run.state, run.torn) == ("resnet20_cifar10", "finished", False)
    assert run.config["model"]["name"] == "resnet20_cifar"
    assert run.provenance["python"] == "3.11.7"
    assert list(run.evaluations) == ["test"]
    loss = run.series["train/loss"]
    assert loss.steps.tolist() == list(range(1, 481))
    assert loss.epochs[[0, -1]].tolist() == [0, 11]


def test_a_run_that_only_just_started_has_a_config_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    run = read_run(tmp_path)
    assert run.state == "started"
    assert run.name == tmp_path.name
    assert not run.series
    assert not run.evaluations
    assert not run.provenance


def test_a_torn_last_line_is_left_out_and_said(hostile_run: Path) -> None:
    run = read_run(hostile_run)
    assert run.torn
    loss = run.series["train/loss"]
    assert loss.steps[-1] == 199
    assert np.isnan(loss.values[30])
    assert np.isinf(loss.values[31])


def test_a_line_torn_inside_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "train/loss": 2}\n{"step": 2, "n": "\xc3')
    series, torn = read_metrics(path)
    assert torn
    assert series["train/loss"].values.tolist() == [2.0]


def test_a_damaged_line_in_the_middle_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train/loss": 2}\noops\n{"step": 3, "train/loss": 1}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: expected a JSON object"):
        read_metrics(path)


def test_the_later_value_of_a_step_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "epoch": 0, "train/loss": loss} for step, loss in ((1, 5.0), (2, 4.0), (1, 3.0))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    series, _ = read_metrics(path)
    assert series["train/loss"].steps.tolist() == [1, 2]
    assert series["train/loss"].values.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("path", ["absent", "."])
def test_what_is_no_run_directory_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=r"expected a run directory, but it has no config\.yaml"):
        read_run(tmp_path / path)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_summary_is_named(make_run: Any, text: str) -> None:
    run = make_run()
    (run / "summary.json").write_text(text)
    with pytest.raises(UserError, match=r"summary\.json: expected"):
        read_run(run)
