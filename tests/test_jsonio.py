import json
from pathlib import Path

from convatlas.jsonio import dumps, write_atomic


def test_non_finite_numbers_become_text() -> None:
    text = dumps({"a": float("nan"), "b": [float("inf"), -float("inf")], "c": 1.5, "d": Path("x")})
    assert json.loads(text) == {"a": "NaN", "b": ["Infinity", "-Infinity"], "c": 1.5, "d": "x"}


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_atomic(tmp_path / "f", "old")
    write_atomic(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
