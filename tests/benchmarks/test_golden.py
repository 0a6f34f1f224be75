import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.golden import REPOSITORY, GoldenError, Outcome, checked_out, compare, difference, settings

BEFORE = Outcome({(0, "train/loss"): "0.5", (1, "train/loss"): "nan"}, {"last.ckpt: fc.bias": torch.zeros(3)})


def test_what_only_the_later_version_logs_is_no_difference() -> None:
    assert difference(BEFORE, Outcome({**BEFORE.figures, (0, "train/norm"): "1.0"}, dict(BEFORE.weights))) is None


@pytest.mark.parametrize(
    ("figures", "weights", "message"),
    [
        ({(0, "train/loss"): "0.5000000000000001"}, {}, "train/loss of step 0 was 0.5 and is 0.5000000000000001"),
        ({(1, "train/loss"): "inf"}, {}, "train/loss of step 1 was nan and is inf"),
        ({}, {"last.ckpt: fc.bias": torch.tensor([0.0, -0.0, 0.0])}, "last.ckpt: fc.bias: 1 of 3 numbers differ"),
        ({}, {"last.ckpt: fc.bias": torch.zeros(3).double()}, "fc.bias was torch.float32"),
        ({}, {"last.ckpt: fc.scale": torch.ones(())}, "last.ckpt: fc.scale is in one of the two only"),
    ],
)
def test_the_first_difference_is_named(
    figures: dict[tuple[int, str], str], weights: dict[str, torch.Tensor], message: str
) -> None:
    found = difference(BEFORE, Outcome({**BEFORE.figures, **figures}, {**BEFORE.weights, **weights}))
    assert found is not None
    assert message in found


def test_a_figure_that_is_no_longer_logged_is_a_difference() -> None:
    assert difference(BEFORE, Outcome({}, BEFORE.weights)) == "train/loss of step 0 was 0.5 and is nothing"


def test_a_commit_that_a_shallow_clone_lacks_is_named() -> None:
    with (
        pytest.raises(GoldenError, match=r"commit=0123456789: not in this clone; .*git fetch --unshallow"),
        checked_out("commit", "0123456789"),
    ):
        pass


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(GoldenError, match="comit: expected one of commit"):
        settings(["comit=a11ee17"])
    with pytest.raises(GoldenError, match="networks=vgg: expected some of resnet"):
        settings(["networks=unet,vgg"])


@pytest.mark.slow
def test_a_commit_equals_itself() -> None:
    command = [sys.executable, "-m", "benchmarks.golden", "commit=HEAD", "against=HEAD", "networks=unet"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("unet ")
    assert done.stdout.endswith("equal, bit for bit\n")


@pytest.mark.slow
def test_a_changed_constant_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("src", "conf", "pipelines"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    optimizer = tmp_path / "conf" / "optimizer" / "adamw.yaml"
    text = optimizer.read_text(encoding="utf-8")
    assert "weight_decay: 0.05" in text
    optimizer.write_text(text.replace("weight_decay: 0.05", "weight_decay: 0.0501"), encoding="utf-8")
    assert not compare(REPOSITORY, tmp_path, ["unet"])
    assert "train/loss of step " in capsys.readouterr().out
