import json
from pathlib import Path

import pytest

from convatlas.errors import UserError
from convatlas.tracking.local_record import LocalRecord, cut_back, read_metrics


def test_lines_carry_step_epoch_and_time(tmp_path: Path) -> None:
    record = LocalRecord(tmp_path / "metrics.jsonl", "r")
    record.log_metrics({"train/loss": 0.5, "epoch": 2.0}, step=7)
    record.log_metrics({"val/loss": float("nan")}, step=8)
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["step"], first["epoch"], first["train/loss"]) == (7, 2, 0.5)
    assert first["time"] > 1.7e9
    assert second["val/loss"] == "NaN"


def test_a_resumed_record_has_every_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = LocalRecord(path, "r")
    for step in range(6):
        record.log_metrics({"train/loss": float(step)}, step=step)
    with path.open("a") as file:
        file.write('{"step": 6, "tr')  # torn by a kill
    cut_back(path, 4)
    for step in range(4, 8):
        record.log_metrics({"train/loss": float(step)}, step=step)
    assert [line["step"] for line in read_metrics(path)] == list(range(8))


def test_a_record_that_cannot_be_written_is_a_mistake_to_mend(tmp_path: Path) -> None:
    record = LocalRecord(tmp_path / "gone" / "metrics.jsonl", "r")
    with pytest.raises(UserError, match=r"run\.root: .*metrics\.jsonl cannot be written \(No such file"):
        record.log_metrics({"train/loss": 0.5}, step=7)


def test_no_record_reads_as_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
