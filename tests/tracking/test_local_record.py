import json
from pathlib import Path

import pytest

from convatlas.errors import UserError
from convatlas.tracking.lines import LineReader
from convatlas.tracking.local_record import LocalRecord, read_metrics


def test_lines_carry_step_epoch_and_time(tmp_path: Path) -> None:
    record = LocalRecord(tmp_path / "metrics.jsonl", "r")
    record.log_metrics({"train/loss": 0.5, "epoch": 2.0}, step=7)
    record.log_metrics({"val/loss": float("nan")}, step=8)
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["step"], first["epoch"], first["train/loss"]) == (7, 2, 0.5)
    assert first["time"] > 1.7e9
    assert second["val/loss"] == "NaN"


def test_a_resumed_record_keeps_what_it_has_and_has_every_value_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = LocalRecord(path, "r")
    for step in range(6):
        record.log_metrics({"train/loss": float(step)}, step=step)
    before = path.read_bytes()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "tr')  # torn by a kill
    record = LocalRecord(path, "r")
    record.resume(4)
    for step in range(4, 8):
        record.log_metrics({"train/loss": 100.0 + step, "epoch": 0.0}, step=step)
    record.log_metrics({"train/loss": 105.0, "val/loss": 1.0}, step=5)
    lines = read_metrics(path)
    assert path.read_bytes().startswith(before)
    assert [line["step"] for line in lines] == [*range(8), 5]
    assert [line.get("train/loss") for line in lines] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 106.0, 107.0, None]


def test_a_record_that_cannot_be_written_is_a_mistake_to_mend(tmp_path: Path) -> None:
    record = LocalRecord(tmp_path / "gone" / "metrics.jsonl", "r")
    with pytest.raises(UserError, match=r"run\.root: .*metrics\.jsonl cannot be written \(No such file"):
        record.log_metrics({"train/loss": 0.5}, step=7)


def test_no_record_reads_as_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_lines_are_read_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = LineReader(path)
    assert reader.new() == []
    path.write_text('{"step": 1}\n{"st', encoding="utf-8")
    assert reader.new() == [{"step": 1}]
    with path.open("a", encoding="utf-8") as file:
        file.write('ep": 2}\n')
    assert reader.new() == [{"step": 2}]
    assert reader.new() == []
