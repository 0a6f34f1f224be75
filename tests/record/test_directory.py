from pathlib import Path

import pytest
import yaml

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory, now


def test_fresh_takes_the_first_free_name(tmp_path: Path) -> None:
    def path(fresh: bool) -> str:
        run = RunDirectory.choose(str(tmp_path), "r-s0", 1, fresh)
        run.create()
        return run.path.name

    assert [path(False), path(False), path(True), path(True)] == ["r-s0", "r-s0", "r-s0-a2", "r-s0-a3"]


def test_a_run_writes_down_what_produces_it(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    run.create()
    config = {"model": {"name": "m"}, "data": {"name": "d"}}
    run.begin(config, ["cat", "dog"], {"command": "convatlas train"})
    assert yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8")) == config
    assert (run.path / "class_list.txt").read_text(encoding="utf-8") == "cat\ndog\n"
    assert run.summary["state"] == "running"
    best = {"metric": "val/top1", "value": 0.5, "step": 3}
    run.update(state="finished", ended=now(), epochs=1, steps=3, best=best, test={})
    assert run.finished
    assert run.summary["name"] == "m on d"


def test_a_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a folder", encoding="utf-8")
    with pytest.raises(UserError, match=r"run\.root=.*runs: cannot be written"):
        RunDirectory(tmp_path / "runs" / "r").create()
