"""A run that is killed, stopped or finds its checkpoint damaged ends as the run that was left alone."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_and_resume import OVERRIDES, difference, only_run, run_once
from convatlas.config.composition import compose
from convatlas.errors import UserError
from convatlas.record.lock import RunLock
from convatlas.training.checkpoint_io import read_checkpoint
from convatlas.utils.signals import EXIT_STATUS
from pipelines.runs import runs
from pipelines.train import train
from tests.compiler import needs_compiler
from tests.conftest import SMALL, read_json


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("alone") / "runs"
    assert run_once(root) == 0
    return root


def state(root: Path) -> Any:
    (summary,) = runs(compose("runs", [f"root={root}"]))["runs"]
    return summary["state"]


@pytest.mark.slow
def test_a_run_killed_four_times_ends_bit_identical_with_every_line_once(alone: Path, tmp_path: Path) -> None:
    for moment, call in (("step", 6), ("validation", 2), ("writing", 3), ("test", 2)):
        assert run_once(tmp_path, moment, call) == -signal.SIGKILL
        assert state(tmp_path) == "interrupted"
    assert run_once(tmp_path) == 0
    assert difference(only_run(tmp_path), only_run(alone)) is None
    (run,) = tmp_path.iterdir()
    assert sorted(path.name for path in (run / "checkpoints").glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]
    first, second = (read_json(next(root.iterdir()) / "summary.json") for root in (tmp_path, alone))
    assert (first["test"], first["best"]) == (second["test"], second["best"])


@pytest.mark.parametrize(
    ("number", "moment", "saved"),
    [(signal.SIGTERM, ("step", 3), 3), (signal.SIGUSR1, ("validation", 2), 4), (signal.SIGTERM, ("test", 1), 18)],
)
def test_a_signal_saves_the_run_and_the_same_command_goes_on(
    number: signal.Signals, moment: tuple[str, int], saved: int, alone: Path, tmp_path: Path
) -> None:
    assert run_once(tmp_path, *moment, number) == EXIT_STATUS
    assert state(tmp_path) == "preempted"
    (run,) = tmp_path.iterdir()
    assert read_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"] == saved
    assert run_once(tmp_path) == 0
    assert difference(only_run(tmp_path), only_run(alone)) is None


MODERN = [
    "augment=rand_augment",
    "data.global_batch_size=12",
    "ema.decay=0.9",
    "model.loss=binary_cross_entropy",
    "model.net.stochastic_depth=0.2",
    "optimizer=lamb",
    "~optimizer.algorithm.nesterov",
    "optimizer.decay_norms_and_biases=false",
    "schedule=cosine",
    "~schedule.warmup_fraction",
    "schedule.warmup_epochs=1",
]


@pytest.mark.slow
def test_with_all_that_a_modern_recipe_has_a_killed_run_ends_bit_identical(tmp_path: Path) -> None:
    assert_survives([("step", 5), ("validation", 2), ("writing", 3)], [*OVERRIDES, *MODERN], tmp_path)


@pytest.mark.full
@pytest.mark.slow
@needs_compiler
def test_compiled_and_in_bfloat16_a_killed_run_ends_bit_identical(tmp_path: Path) -> None:
    compiled = ["model.compile=true", "model.net.depth=8", "trainer.precision=bf16-mixed"]  # 8: compiled in seconds
    assert_survives([("step", 5)], [*OVERRIDES, *compiled], tmp_path)


def assert_survives(kills: list[tuple[str, int]], overrides: list[str], folder: Path) -> None:
    assert run_once(folder / "alone", overrides=overrides) == 0
    for moment, call in kills:
        assert run_once(folder / "killed", moment, call, overrides=overrides) == -signal.SIGKILL
    assert run_once(folder / "killed", overrides=overrides) == 0
    assert difference(only_run(folder / "killed"), only_run(folder / "alone")) is None


def test_a_truncated_checkpoint_costs_the_steps_since_the_one_before(alone: Path, tmp_path: Path) -> None:
    run_once(tmp_path, "step", 6)
    (run,) = tmp_path.iterdir()
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:10_000])
    assert run_once(tmp_path) == 0
    assert difference(only_run(tmp_path), only_run(alone)) is None


def test_two_processes_on_one_run_are_one_too_many(alone: Path, tmp_path: Path) -> None:
    run_once(tmp_path, "step", 4)
    (run,) = tmp_path.iterdir()
    with RunLock(run):
        before = (run / "metrics.jsonl").read_bytes()
        assert state(tmp_path) == "running"
        with pytest.raises(UserError, match="is owned by process"):
            train(compose("train", [*OVERRIDES, f"run.root={tmp_path}"]))
        assert (run / "metrics.jsonl").read_bytes() == before


SIGNALLED = """
import atexit, functools, os, signal, sys
from convatlas.cli import execute
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import RunLock
from pipelines.train import TYPES, show, train

def send(*_):
    for number in (signal.SIGUSR1, signal.SIGTERM):
        os.kill(os.getpid(), number)

def then_send(owner, name):
    original = getattr(owner, name)

    @functools.wraps(original)
    def method(*arguments, **options):
        result = original(*arguments, **options)
        if name != "update" or options.get("state") == "finished":
            send()
        return result

    setattr(owner, name, method)

then_send(RunDirectory, "update")  # the result is written
then_send(RunLock, "__exit__")  # the run is over
atexit.register(send)  # Python ends
sys.argv = ["train", *sys.argv[1:]]
execute(train, lambda result: (send(), show(result)), TYPES)
"""


def test_a_signal_between_the_result_and_the_exit_does_not_fail_a_finished_run(tmp_path: Path) -> None:
    """SLURM counts the seconds until the process has exited."""
    for shown in ("Finished 1 epochs", "This run is finished already"):
        done = subprocess.run(
            [sys.executable, "-c", SIGNALLED, *SMALL, "trainer.max_epochs=1", f"run.root={tmp_path}"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
