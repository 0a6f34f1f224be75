"""A segmentation run that is killed ends as the run that was left alone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kill_and_resume import difference, only_run
from tests.pipelines.test_segmentation import SMALL

OVERRIDES = [*SMALL, "model.net.dropout=0.3", "augment=masks_elastic", "augment.weights=null", "run.checkpoint_steps=2"]
CHILD = """
import os, signal, sys
from convatlas.config.composition import compose
from convatlas.tasks.segmentation.task import SegmentationTask
from pipelines.train import train

original, calls = getattr(SegmentationTask, sys.argv[1]), 0

def counted(self, batch):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch)

setattr(SegmentationTask, sys.argv[1], counted)
train(compose("train", sys.argv[3:]))
"""


def run_once(root: Path, method: str = "training_step", call: int = 0) -> int:
    """Train in a process of its own that kills itself in a call of a method; its status."""
    command = [sys.executable, "-c", CHILD, method, str(call), *OVERRIDES, f"run.root={root}"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.slow
def test_a_killed_run_ends_bit_identical_with_every_line_once(tmp_path: Path) -> None:
    """Dropout, deformations and the training's own confusion matrix included."""
    assert run_once(tmp_path / "alone") == 0
    for method, call in (("training_step", 4), ("validation_step", 1), ("training_step", 5), ("test_step", 1)):
        assert run_once(tmp_path / "killed", method, call) == -signal.SIGKILL
    assert run_once(tmp_path / "killed") == 0
    assert difference(only_run(tmp_path / "killed"), only_run(tmp_path / "alone")) is None
