"""Two ranks on one machine (gloo): one run, every evaluated sample once."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.kill_and_resume import OVERRIDES, difference, only_run
from convatlas.record.lines import read_metrics
from convatlas.training.restore import restored_config
from pipelines.evaluate import evaluate
from tests.conftest import SMALL, read_json
from tests.fixtures import run_two_ranks
from tests.gates import PATIENCE

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "convatlas"]


def torchrun(directory: Path, *overrides: str) -> None:
    done = subprocess.run(
        [*LAUNCH, "train", *SMALL, "trainer.accelerator=cpu", *overrides],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
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
def test_the_two_ranks_of_any_launcher_make_one_run_and_other_verbs_are_refused(tmp_path: Path) -> None:
    train = ["-m", "convatlas", "train", *SMALL, "trainer.accelerator=cpu"]
    for end in run_two_ranks(*train, each=(["seed=0"], ["seed=1"]), cwd=tmp_path):
        assert end.returncode == 2
        (line,) = [line for line in end.stderr.splitlines() if line.startswith("convatlas: error: ")]
        assert "the ranks differ: seed is 0 on rank 0 and 1 on rank 1" in line
        assert "Traceback" not in end.stderr
    assert not (tmp_path / "runs").exists()

    ends = run_two_ranks(*train, cwd=tmp_path)
    assert [end.returncode for end in ends] == [0, 0], [end.stderr for end in ends]
    assert "2 ranks × 8 × 1 accumulation" in ends[0].stderr
    assert ends[1].stdout == ""
    (run,) = (tmp_path / "runs").iterdir()
    steps = [line["step"] for line in read_metrics(run / "metrics.jsonl") if "train/loss" in line]
    assert len(steps) == len(set(steps)) > 0
    assert read_json(run / "summary.json")["state"] == "finished"

    predict = ["-m", "convatlas", "predict", f"checkpoint={run}/checkpoints/best.ckpt", "images=."]
    for end in run_two_ranks(*predict, cwd=tmp_path):
        assert end.returncode == 2
        assert "convatlas: error: predict: 2 processes were started, expected one" in end.stderr


CHILD = """
import os, sys
from benchmarks.kill_and_resume import child
if os.environ["RANK"] != "1":  # only one rank is told to stop
    del sys.argv[3:]
child()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    ["step", pytest.param("validation", marks=pytest.mark.full), pytest.param("test", marks=pytest.mark.full)],
)
def test_where_one_of_two_ranks_is_told_to_stop_both_do_and_go_on_bit_identical(
    moment: str, two_ranks: Path, tmp_path: Path
) -> None:
    run_child(tmp_path, moment, "3", str(int(signal.SIGTERM)))
    run = only_run(tmp_path)
    assert read_json(run / "summary.json")["state"] == "preempted"
    run_child(tmp_path)
    assert difference(run, only_run(two_ranks)) is None


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run with dropout on two ranks that nothing happened to."""
    root = tmp_path_factory.mktemp("two-ranks")
    run_child(root)
    assert read_json(only_run(root) / "summary.json")["state"] == "finished"
    return root


@pytest.mark.slow
def test_the_average_that_two_ranks_validate_is_the_checkpoint_s(tmp_path: Path) -> None:
    """Batch normalisation's statistics included, of which each rank has averaged its own."""
    run_child(tmp_path / "runs", overrides=[*OVERRIDES, "ema.decay=0.9", "trainer.limit_val_batches=1.0"])
    run = only_run(tmp_path / "runs")
    config = restored_config("evaluate", [f"run={run}", "data.split=val", f"output={tmp_path}"])
    best = read_json(run / "summary.json")["best"]
    (validated,) = [line for line in read_metrics(run / "metrics.jsonl") if line.get("val/top1") == best["value"]][:1]
    found = evaluate(config)["metrics"]
    assert found["val/top1"] == best["value"]
    assert found["val/loss"] == pytest.approx(validated["val/loss"], rel=1e-5)


def run_child(root: Path, *signal_in: str, overrides: Sequence[str] = OVERRIDES) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    done = subprocess.run(
        [*launch, sys.executable, "-c", CHILD, str(root), json.dumps(overrides), *signal_in],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode == 0) == (not signal_in), done.stderr
