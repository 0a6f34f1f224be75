"""What a worker makes of a training, with a script in its place that records, fails or waits as it is told."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from optuna.trial import Trial, TrialState

from convatlas.errors import UserError
from convatlas.record.lock import Owner, Watch, process_start
from convatlas.sweep.definition import Sweep
from convatlas.sweep.objective import Reports
from convatlas.sweep.trial import Training
from convatlas.sweep.worker import Stopped, TrialOutcome, claim
from convatlas.training.plan import plan_run
from convatlas.utils.signals import StopFlag
from tests.conftest import SMALL
from tests.gates import until
from tests.sweep.definitions import make_sweep

RATE = {"_target_": "convatlas.sweep.space.Float", "key": "optimizer.learning_rate", "low": 0.1, "high": 1.0}
FAKE = """
import json, os, signal, sys, time
from pathlib import Path
run = Path(sys.argv[1])
run.mkdir(parents=True, exist_ok=True)
best = {"metric": "val/top1", "value": 0.5, "step": 3}
whole = {"ended": "2026-01-01T00:00:00+00:00", "epochs": 3, "steps": 3, "best": best, "test": {}}
def state(**entries):
    if entries["state"] == "finished":
        entries = whole | entries
    (run / "summary.json").write_text(json.dumps(entries))
def epoch(number, value):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": number, "epoch": number, "val/top1": value, "val/loss": 1.0}) + "\\n")
def told(*_):
    state(state="preempted")
    sys.exit(75)
signal.signal(signal.SIGTERM, told)
state(state="running")
"""
"""The beginning of a training's stand-in; what follows is a test's own."""


def train(
    tmp_path: Path, script: str, stop: StopFlag | None = None, **changed: Any
) -> tuple[Sweep, Trial, TrialOutcome]:
    settings = {"space": {"rate": RATE}, "train": [*SMALL, "trainer.max_epochs=3"]} | changed
    sweep = make_sweep(tmp_path / "s", 1, **settings)
    (tmp_path / "fake.py").write_text(FAKE + script, encoding="utf-8")
    trial = claim(sweep, "w")
    assert trial is not None

    def launch(overrides: Sequence[str]) -> list[str]:
        run = sweep.directory / "runs" / sweep.study.get_trials()[0].user_attrs["run"]
        return [sys.executable, str(tmp_path / "fake.py"), str(run)]

    training = Training(sweep, [f"run.root={sweep.directory / 'runs'}"], launch, stop or StopFlag())
    return sweep, trial, training(trial)


def test_a_finished_run_has_the_value_of_its_best_epoch(tmp_path: Path) -> None:
    script = "epoch(0, 0.2); epoch(1, 0.7); epoch(2, 'NaN'); state(state='finished', parameters=10)"
    objectives = [{"metric": "val/top1", "mode": "max"}, {"metric": "parameters", "mode": "min"}]
    sweep, _, outcome = train(tmp_path, script, objective=objectives)
    assert outcome == TrialOutcome(TrialState.COMPLETE, [0.7, 10.0])
    assert sweep.study.get_trials()[0].user_attrs["run"].startswith("resnet20_cifar-fashion_mnist_sample-")


def test_the_pruner_ends_a_run_by_its_record(tmp_path: Path) -> None:
    pruner = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.5}
    sweep, _, outcome = train(tmp_path, "epoch(0, 0.6); epoch(1, 0.4); time.sleep(60)", pruner=pruner)
    assert outcome == TrialOutcome(TrialState.PRUNED)
    assert sweep.study.get_trials()[0].intermediate_values == {1: 0.6, 2: 0.4}


def test_a_run_at_its_last_epoch_is_left_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pruner = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.5}
    should_prune = Reports.should_prune

    def tell(reports: Reports) -> bool:
        pruned = should_prune(reports)
        if 3 in reports._reported:
            (tmp_path / "reported").touch()
        return pruned

    monkeypatch.setattr(Reports, "should_prune", tell)
    script = (
        "epoch(0, 0.6); epoch(2, 0.4)\n"
        "while not Path(__file__).with_name('reported').exists(): time.sleep(0.01)\n"
        "state(state='finished')"
    )
    assert train(tmp_path, script, pruner=pruner)[2] == TrialOutcome(TrialState.COMPLETE, [0.6])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("state(state='failed', reason='DivergedError: train/loss is nan at step 3')", "diverged: train/loss is nan"),
        ("state(state='failed', reason='OutOfMemoryError: CUDA out of memory. Tried')", "out of memory: OutOfMemory"),
        ("state(state='failed', reason='ValueError: Invalid')\nsys.exit(1)", "crashed: ValueError: Invalid"),
        ("print('convatlas: error: no such data'); sys.exit(2)", "crashed: no such data"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed: by SIGKILL"),
        ("print('slurmstepd: error: Detected 1 oom_kill event'); sys.exit(137)", "out of memory: "),
    ],
)
def test_a_failure_has_its_reason(tmp_path: Path, script: str, reason: str) -> None:
    outcome = train(tmp_path, script)[2]
    assert outcome.state == TrialState.FAIL
    assert str(outcome.reason).startswith(reason)


@pytest.mark.parametrize(
    ("script", "damaged"),
    [
        ("(run / 'metrics.jsonl').write_text('oops\\n'); state(state='finished')", "metrics.jsonl:1: damaged line"),
        ("(run / 'metrics.jsonl').write_text('oops\\n'); time.sleep(60)", "metrics.jsonl:1: damaged line"),
        ("(run / 'summary.json').write_text('[]')", "summary.json: damaged, expected a JSON object"),
    ],
)
def test_a_trial_whose_record_is_damaged_fails_and_stops_no_other(tmp_path: Path, script: str, damaged: str) -> None:
    pruner = {"_target_": "optuna.pruners.ThresholdPruner", "lower": 0.5}
    outcome = train(tmp_path, script, pruner=pruner)[2]
    assert outcome.state == TrialState.FAIL
    assert str(outcome.reason).startswith("damaged: ")
    assert damaged in str(outcome.reason)


def test_a_worker_that_is_told_to_stop_lets_the_training_save_itself(tmp_path: Path) -> None:
    stop = StopFlag()

    def tell() -> None:
        until(lambda: list((tmp_path / "s").glob("runs/*/summary.json")))
        stop.received.append(signal.SIGTERM)

    threading.Thread(target=tell, daemon=True).start()
    with pytest.raises(Stopped):
        train(tmp_path, "time.sleep(60)", stop)
    (summary,) = (tmp_path / "s" / "runs").glob("*/summary.json")
    assert json.loads(summary.read_text(encoding="utf-8")) == {"state": "preempted"}


def test_a_training_that_was_told_to_stop_stops_its_worker(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")


def test_what_a_dead_worker_left_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    owner = Owner(platform.node(), orphan.pid, process_start(orphan.pid), "now", None)
    monkeypatch.setattr("convatlas.sweep.trial.plan_run", _with_owner(owner))
    looks: list[Owner | None] = []

    class Looks(Watch):
        def owner(self, path: Path) -> Owner | None:
            looks.append(super().owner(path))
            if len(looks) == 2:
                orphan.communicate()
            return looks[-1]

    monkeypatch.setattr("convatlas.sweep.trial.Watch", Looks)
    train(tmp_path, f"assert not os.path.exists('/proc/{orphan.pid}'); epoch(0, 0.1); state(state='finished')")
    assert looks == [owner, owner, None]


def _with_owner(owner: Owner) -> Callable[..., Any]:
    def planned(*arguments: Any) -> Any:
        run, data = plan_run(*arguments)
        run.path.mkdir(parents=True)
        (run.path / "lock.json").write_text(json.dumps(asdict(owner)), encoding="utf-8")
        return run, data

    return planned


def test_a_training_ends_with_the_worker_that_started_it(tmp_path: Path) -> None:
    starter = (
        "import sys; from pathlib import Path; from convatlas.jobs.launch import start; import time\n"
        "sleeper = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "child = start(sleeper, Path(sys.argv[1]), die_with_parent=True)\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    worker = psutil.Popen([sys.executable, "-c", starter, str(tmp_path / "log")], stdout=-1, text=True)
    child = psutil.Process(int(worker.stdout.readline()))
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    worker.wait()


def test_a_trial_waits_for_an_equal_trial_and_shares_its_result(tmp_path: Path) -> None:
    script = (
        "asked = Path(__file__).with_name('asked')\n"
        "if not asked.exists():\n"
        "    asked.touch()\n"
        "    print(f'convatlas: error: run {run} is owned by process 7 on here: wait for it', flush=True)\n"
        "    sys.exit(1)\n"
        "epoch(0, 0.4); state(state='finished')"
    )
    assert train(tmp_path, script)[2] == TrialOutcome(TrialState.COMPLETE, [0.4])


def test_images_that_are_not_on_a_machine_cost_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_images(*arguments: Any) -> Any:
        raise UserError("data.root=/data: there is no such folder")

    monkeypatch.setattr("convatlas.sweep.trial.plan_run", no_images)
    with pytest.raises(UserError, match=r"data\.root=/data: there is no such folder"):
        train(tmp_path, "")


def test_an_objective_that_is_never_finite_fails_the_trial_alone(tmp_path: Path) -> None:
    script = "epoch(0, 'NaN'); epoch(1, 'NaN'); state(state='finished')"
    assert train(tmp_path, script)[2] == TrialOutcome(TrialState.FAIL, reason="diverged: val/top1 is never finite")


def test_a_metric_that_no_run_has_is_a_mistake_of_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"objective.metric=val/topp1: the record has val/loss, val/top1"):
        train(tmp_path, "epoch(0, 0.1); state(state='finished')", objective=[{"metric": "val/topp1", "mode": "max"}])
