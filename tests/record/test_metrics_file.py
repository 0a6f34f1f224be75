import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convatlas.errors import UserError
from convatlas.record import lines as record_lines
from convatlas.record.lines import Line
from convatlas.record.metrics_file import MetricsFile
from convatlas.record.series import MAX_BUCKETS


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {"step": step, "epoch": step // 10, "time": step, "train/loss": 1 / (1 + step)} for step in range(first, last)
    ]


def read(path: Path) -> MetricsFile:
    found = MetricsFile(path)
    found.read()
    return found


def test_metrics_are_read_by_name_from_lines_of_any_keys(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    wide = {"step": 5, "epoch": 0, "time": 5.0, "train/loss": "NaN", "train/data_wait": 0.5}
    val = {"step": 5, "epoch": None, "time": 5.5, "val/loss": 3}
    path.write_text(lines([*rows(0, 5), wide, val, *rows(6, 8)]), encoding="utf-8")
    found = read(path)
    assert found.series.keys() == {"train/loss", "train/data_wait", "val/loss"}
    assert found.series["train/loss"].steps.tolist() == list(range(8))
    assert found.series["train/loss"].first_gap == 5
    assert found.series["val/loss"].means.tolist() == [3]
    assert not found.torn


def test_only_what_was_appended_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(rows(0, 1000)), encoding="utf-8")
    found = read(path)
    parsed: list[int] = []
    parse = record_lines._parse

    def count(texts: Sequence[bytes]) -> list[Line] | None:
        parsed.append(len(texts))
        return parse(texts)

    monkeypatch.setattr(record_lines, "_parse", count)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines(rows(1000, 1003)) + '{"step": 1003, "tr')
    found.read()
    assert parsed == [3]
    torn = found.torn
    with path.open("a", encoding="utf-8") as file:
        file.write('ain/loss": 0.5}\n')
    found.read()
    assert parsed == [3, 1]
    assert (torn, found.torn) == (True, False)
    assert found.series["train/loss"].steps.tolist() == list(range(1004))


def test_a_record_that_was_cut_back_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(rows(0, 50)), encoding="utf-8")
    found = read(path)
    path.write_text(lines([*rows(0, 20), {"step": 20, "time": 1, "train/loss": 9.0}]), encoding="utf-8")
    found.read()
    assert found.series["train/loss"].steps.tolist() == list(range(21))
    assert found.series["train/loss"].last == 9
    path.unlink()
    found.read()
    assert not found.series


def test_a_long_record_is_bounded_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(rows(0, 5000)), encoding="utf-8")
    whole = read(path).series["train/loss"]
    monkeypatch.setattr(record_lines, "BLOCK", 999)
    parts = read(path).series["train/loss"]
    assert len(whole.steps) <= MAX_BUCKETS
    assert parts.steps.tolist() == whole.steps.tolist()
    assert parts.means == pytest.approx(whole.means)
    assert (whole.highs.max(), whole.lows.min()) == (1, 1 / 5000)


def test_a_line_torn_inside_a_character_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "train/loss": 2}\n{"step": 2, "n": "\xc3')
    found = read(path)
    assert found.torn
    assert found.series["train/loss"].means.tolist() == [2.0]


@pytest.mark.parametrize("damage", ["oops", "[1]", '{"train/loss": 1}', '{"step": 2, "train/loss": "x"}', "1, 2"])
def test_a_damaged_line_names_file_and_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(rows(0, 1)), encoding="utf-8")
    found = read(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{lines(rows(1, 2))}{damage}\n{lines(rows(3, 4))}")
    with pytest.raises(UserError, match=r"metrics\.jsonl:3: damaged line, expected a JSON object with a step"):
        found.read()


def test_values_keep_their_precision(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines([{"step": 1, "time": 1.0, "train/loss": 0.1234567890123}]), encoding="utf-8")
    assert read(path).series["train/loss"].means[0] == np.float64(0.1234567890123)
