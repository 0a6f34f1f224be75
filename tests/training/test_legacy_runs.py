"""Runs and sweeps of commit a11ee17 that lie beside those that a command would begin."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from convatlas.config.composition import compose
from convatlas.record.directory import RunDirectory
from convatlas.sweep.definition import find_sweep_of_before
from convatlas.training.plan import plan_run
from tests.legacy.commands import FIXTURES, TRAIN

NAME = "unfinished_classification"


@pytest.fixture
def former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an unfinished run of a11ee17 in ``runs`` of the working directory."""
    shutil.copytree(FIXTURES / NAME, tmp_path / NAME)
    monkeypatch.chdir(tmp_path / NAME)
    (run,) = (tmp_path / NAME / "runs").iterdir()
    return run


def planned(*overrides: str) -> RunDirectory:
    """The run of the former run's command."""
    return plan_run(compose("train", [*TRAIN[NAME], *overrides]))[0]


def rewrite(path: Path, **entries: Any) -> None:
    """Change entries of a YAML file."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(content | entries), encoding="utf-8")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that can be imported, with a class in it."""
    (tmp_path / "named_by_a_file.py").write_text("class Thing:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "named_by_a_file"


def test_mirrors_do_not_count(former: Path) -> None:
    assert planned("tracking=none").path.name == planned("tracking=wandb").path.name == former.name


@pytest.mark.parametrize("damage", ["a: [", "- 1"])
def test_a_damaged_run_beside_a_new_one_is_named_and_does_not_stop_it(
    damage: str, former: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (former / "config.yaml").write_text(damage, encoding="utf-8")
    assert planned().path.name != former.name
    assert f"warning: {Path('runs') / former.name / 'config.yaml'}: damaged" in capsys.readouterr().err


def test_a_recorded_constructor_that_the_command_does_not_name_is_not_imported(former: Path, module: str) -> None:
    rewrite(former / "config.yaml", schedule={"_target_": f"{module}.Thing"})
    assert planned().path.name != former.name
    assert module not in sys.modules


def test_a_sweeps_constructor_that_the_command_does_not_name_is_not_imported(tmp_path: Path, module: str) -> None:
    (former,) = (FIXTURES / "unfinished_sweep" / "sweeps").iterdir()
    copy = Path(shutil.copytree(former, tmp_path / "sweeps" / former.name))
    recorded = yaml.safe_load((copy / "sweep.yaml").read_text(encoding="utf-8"))
    directory = copy.with_name(f"{former.name.rpartition('-')[0]}-00000000")
    own = {key: recorded[key] for key in ("space", "sampler", "pruner", "objective")}
    assert find_sweep_of_before(directory, own, recorded["train"]) == copy
    rewrite(copy / "sweep.yaml", sampler={"_target_": f"{module}.Thing"})
    assert find_sweep_of_before(directory, own, recorded["train"]) is None
    assert module not in sys.modules


@pytest.mark.parametrize("damage", ["a: [", "- 1", "format: new"])
def test_a_damaged_sweep_beside_a_new_one_is_named_and_does_not_stop_it(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "small-12345678" / "sweep.yaml"
    damaged.parent.mkdir()
    damaged.write_text(damage, encoding="utf-8")
    assert find_sweep_of_before(tmp_path / "small-00000000", {}, []) is None
    assert f"warning: {damaged}: damaged" in capsys.readouterr().err
