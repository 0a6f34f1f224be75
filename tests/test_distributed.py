"""Two ranks on one machine (gloo): one run, every evaluated sample once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kill_and_resume import difference, only_run
from convatlas.tracking.local_record import read_metrics
from tests.conftest import SMALL, read_json

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "convatlas"]


def torchrun(directory: Path, *overrides: str) -> None:
    done = subprocess.run(
        [*LAUNCH, "train", *SMALL, "trainer.accelerator=cpu", *overrides],
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


@pytest.mark.slow
def test_two_ranks_told_to_stop_go_on_bit_identical(tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=6", "trainer.log_every_n_steps=1"]
    torchrun(tmp_path, *overrides, f"run.root={tmp_path / 'alone'}")
    root = tmp_path / "stopped"
    command = [*LAUNCH, "train", *SMALL, "trainer.accelerator=cpu", *overrides, f"run.root={root}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(
        len(read_metrics(path)) > 12 for path in root.glob("*/metrics.jsonl")
    ):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    (run,) = root.iterdir()
    assert read_json(run / "summary.json")["state"] == "preempted"
    torchrun(tmp_path, *overrides, f"run.root={root}")
    assert difference(run, only_run(tmp_path / "alone")) is None
