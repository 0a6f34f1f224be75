import json
import os
from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import compose
from convatlas.data.sources.images import LabelledSource
from convatlas.data.tools.verify import Record, verify_source
from convatlas.errors import UserError
from pipelines.data_verify import data_verify, show
from tests.conftest import Command, read_json
from tests.fixtures import write_faulty_folder, write_image_folder


def test_errors_end_with_status_3_and_the_result_is_shown(convatlas: Command, tmp_path: Path) -> None:
    write_faulty_folder(tmp_path / "images")
    (tmp_path / "images" / "train" / "ant" / "bl\x1b[31müte.jpg").touch()
    done = convatlas("data", "verify", "data=imagefolder", "data.root=images", "threads=2")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "train  23/23" in done.stderr
    assert "Training would stop: 7 of 39 images cannot be decoded;" in done.stdout
    assert "error   images/train/ant/bl\\x1b[31müte.jpg: an empty file" in done.stdout
    assert "notice  images/train/bee/print.jpg: JPEG" in done.stdout
    assert "notice  same bytes (leakage): images/train/ant/003.jpg  images/val/ant/leaked.jpg" in done.stdout
    result = read_json(tmp_path / "verification" / "verification.json")
    assert {kind["severity"] for kind in result["kinds"].values()} == {"error", "notice"}


def test_a_clean_folder_ends_with_status_0_and_one_document(convatlas: Command, tmp_path: Path) -> None:
    write_image_folder(tmp_path / "images", ["a", "b"], per_class=2, size=32)
    done = convatlas("data", "verify", "data=imagefolder", "data.root=images", "output=new/folder", "format=json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["ok"]
    assert "Every image can be decoded." in Path(tmp_path / result["page"]).read_text(encoding="utf-8")
    written = read_json(tmp_path / result["json"])
    assert written == {key: value for key, value in result.items() if key not in ("json", "page")}


def test_the_embedded_shards_can_be_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = data_verify(compose("data_verify", [f"output={tmp_path}"]))
    assert (result["ok"], result["num_images"], result["findings"]) == (True, 6000, [])
    assert result["splits"]["test"]["classes"]["imbalance"] == 1
    assert result["splits"]["test"]["greyscale"] == 1000
    show(result)
    assert "10 of 10" in capsys.readouterr().out


def test_a_thread_works_for_each_core_that_is_lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    def spy(source: LabelledSource, in_channels: int, threads: int, advance: Any) -> Record:
        numbers.append(threads)
        return verify_source(source, in_channels, threads, advance)

    monkeypatch.setattr("pipelines.data_verify.verify_source", spy)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7})
    root = write_image_folder(tmp_path / "images", ["a"], per_class=2, size=8)
    data_verify(compose("data_verify", ["data=imagefolder", f"data.root={root}", f"output={tmp_path / 'out'}"]))
    assert numbers == [3, 3]


def test_an_output_that_cannot_be_written_is_named_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="output=/dev/null/x: cannot be written"):
        data_verify(compose("data_verify", ["output=/dev/null/x"]))
    assert capsys.readouterr().err == ""  # no progress


def test_a_missing_folder_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root=/nowhere"):
        data_verify(compose("data_verify", [f"output={tmp_path / 'new'}", "data=imagefolder", "data.root=/nowhere"]))
    assert list(tmp_path.iterdir()) == []
