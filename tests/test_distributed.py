"""Two ranks on one machine (gloo): one run, every evaluated sample once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SMALL, read_json


def torchrun(directory: Path, *overrides: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "convatlas"]
    done = subprocess.run(
        [*command, "train", *SMALL, "trainer.accelerator=cpu", *overrides],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert "2 ranks × 8 × 1 accumulation" in done.stderr


@pytest.mark.slow
def test_two_ranks_make_one_run_and_count_every_sample_once(tmp_path: Path) -> None:
    torchrun(tmp_path, "trainer.limit_val_batches=1.0", "trainer.limit_test_batches=1.0")
    (run,) = (tmp_path / "runs").iterdir()
    assert read_json(run / "summary.json")["state"] == "finished"
    result = read_json(run / "evaluation" / "test.json")
    assert result["num_samples"] == 1000
    assert sum(map(sum, result["confusion_matrix"])) == 1000
    correct = sum(row[index] for index, row in enumerate(result["confusion_matrix"]))
    assert result["metrics"]["test/top1"] == pytest.approx(correct / 1000)
