"""The GPU benchmark: its reduced form on a CPU, without the packages that a machine with a GPU may lack."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import sections
from benchmarks.gpu.__main__ import MORE, USUAL, install
from benchmarks.gpu.rows import Row, Setting

REPOSITORY = Path(__file__).parents[2]
WITHOUT = """
import importlib.machinery
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        absent = {"optuna", "plotly", "pycocotools", "sqlalchemy", "wandb"}
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in absent else None

    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, Absent())
"""
"""A machine without these packages, as its Python starts."""


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the whole benchmark runs, by make gpu")
def test_the_reduced_form_runs_without_other_packages_and_finds_nothing_wrong(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "gpu.md").read_bytes()
    done = run(tmp_path, "--only", *USUAL, *MORE)
    assert done.returncode == 0, done.stdout + done.stderr
    first, *lines = done.stdout.splitlines()
    assert first.startswith("no GPU: a reduced form on the CPU; torch ")
    assert {line.split()[0] for line in lines} == {*USUAL, *MORE}
    assert len([line for line in lines if line.endswith(" s")]) >= 2
    assert not any("wrong" in line for line in lines)
    assert sum("right" in line for line in lines) >= 16
    assert (REPOSITORY / "docs" / "gpu.md").read_bytes() == page


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("section", ["numerics", "augmentation", "variants"])
def test_a_section_finds_nothing_wrong_on_the_gpu(section: str) -> None:
    assert [row for row in sections.SECTIONS[section](Setting.here()) if row.verdict == "wrong"] == []


def test_a_section_that_fails_says_so_in_a_row(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(setting: Setting) -> list[Row]:
        raise RuntimeError(f"no kernel\nfor {setting.device}")

    monkeypatch.setitem(sections.SECTIONS, "numerics", broken)
    monkeypatch.setattr(sys, "argv", ["sections", "numerics"])
    sections.main()
    row = json.loads(capfd.readouterr().out)
    assert (row["section"], row["verdict"]) == ("numerics", "wrong")
    assert row["note"].startswith("no kernel for ")


def test_a_value_that_is_no_number_is_wrong() -> None:
    assert Row.within("logits", 1.0, error=float("nan")).verdict == "wrong"
    assert Row.within("logits", 1.0, error=1.0).verdict == "right"
    assert Row.read(Row("a", "measured", {"b": 2}).line()) == Row("a", "measured", {"b": 2})


def test_a_folder_without_wheels_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no wheels; scripts/gpu_wheels\.sh .* makes them"):
        install(tmp_path, tmp_path)
