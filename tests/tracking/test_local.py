import json
from pathlib import Path

import pytest

from convatlas.errors import UnreadableError, UserError
from convatlas.record.lines import read_metrics
from convatlas.tracking.local import LocalRecord


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


def test_a_record_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    record = LocalRecord(tmp_path / "gone" / "metrics.jsonl", "r")
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written \(No such file"):
        record.log_metrics({"train/loss": 0.5}, step=7)


def test_a_damaged_record_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    content = b'{"step": 0, "train/loss": 1.0}\n{"step": 1, "tra\0\0\0\n{"step": 2, "train/loss": 1.0}\n{"step": 3, "tr'
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"metrics\.jsonl:2: damaged line"):
        LocalRecord(path, "r").resume(1)
    assert path.read_bytes() == content
