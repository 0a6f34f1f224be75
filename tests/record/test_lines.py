"""The one reader of the record."""

from pathlib import Path

import pytest

from convatlas.errors import UnreadableError
from convatlas.record import lines
from convatlas.record.lines import LineReader, read_metrics


def test_no_record_reads_as_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_lines_are_read_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    reader = LineReader(path)
    assert reader.new() == []
    path.write_text('{"step": 1}\n{"st', encoding="utf-8")
    assert (reader.new(), reader.torn, reader.end) == ([{"step": 1}], True, 12)
    with path.open("a", encoding="utf-8") as file:
        file.write('ep": 2}\n')
    assert (reader.new(), reader.torn) == ([{"step": 2}], False)
    assert reader.new() == []
    assert not reader.was_replaced()
    path.write_text('{"step": 7}\n', encoding="utf-8")
    assert reader.was_replaced()
    assert reader.new() == [{"step": 7}]


def test_what_the_trainer_writes_is_read_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "epoch": null, "time": 1.5, "a/b": "NaN"}\n{"step": 1, "a/b": 2}\n', encoding="utf-8")
    expected = [{"step": 0, "epoch": None, "time": 1.5, "a/b": "NaN"}, {"step": 1, "a/b": 2}]
    for size in (1, 7, 60, 2**20):
        monkeypatch.setattr(lines, "BLOCK", size)
        assert read_metrics(path) == expected


@pytest.mark.parametrize("tail", [b'{"step": 2, "tr', b"\0" * 50, b'{"step": 2, "n": "\xc3', b'{"step": 2}'])
def test_only_an_incomplete_last_line_is_left_out(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + tail)
    reader = LineReader(path)
    assert (reader.new(), reader.torn) == ([{"step": 1}], True)


DAMAGED = {
    "no JSON": b"oops",
    "cut": b'{"step": 2, "a/b": 1',
    "a list": b"[1]",
    "two values": b"1, 2",
    "two objects": b'{"step": 2}{"step": 3}',
    "empty": b"",
    "no step": b'{"a/b": 1}',
    "a step that is text": b'{"step": "2"}',
    "a step that is no integer": b'{"step": 2.5}',
    "a step that is a truth value": b'{"step": true}',
    "a negative step": b'{"step": -1}',
    "a huge step": b'{"step": 99999999999999999999}',
    "a huge epoch": b'{"step": 2, "epoch": 99999999999999999999}',
    "a huge number": b'{"step": 2, "a/b": 1' + b"0" * 400 + b"}",
    "text for a number": b'{"step": 2, "a/b": "x"}',
    "digits as text": b'{"step": 2, "a/b": "1.5"}',
    "null for a number": b'{"step": 2, "a/b": null}',
    "a truth value for a number": b'{"step": 2, "a/b": true}',
    "a list for a number": b'{"step": 2, "a/b": [1]}',
    "text for an epoch": b'{"step": 2, "epoch": "NaN"}',
    "NUL bytes": b'{"step": 2, "a/b\0\0": 1}',
    "all NUL bytes": b"\0" * 30,
    "half a surrogate pair": b'{"step": 2, "a\\ud800/b": 1}',
    "no UTF-8": b'{"step": 2, "a\xff/b": 1}',
}


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_names_file_and_line_wherever_it_is(tmp_path: Path, damage: bytes, place: str) -> None:
    whole = [b'{"step": %d, "a/b": 1.0}' % step for step in range(5)]
    number = {"first": 1, "middle": 3, "last": 5}[place]
    whole[number - 1] = damage
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(whole) + b"\n")
    before = path.read_bytes()
    with pytest.raises(UnreadableError, match=rf"metrics\.jsonl:{number}: damaged line, expected a JSON object with"):
        read_metrics(path)
    assert path.read_bytes() == before


def test_lines_that_would_heal_each_other_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1,\n"a/b": 2}\n')
    with pytest.raises(UnreadableError, match=r"metrics\.jsonl:1: damaged line"):
        read_metrics(path)
