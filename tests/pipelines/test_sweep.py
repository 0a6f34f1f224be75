"""`convatlas sweep` on this machine; tests/test_sweep_slurm.py has the cluster."""

import fcntl
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from convatlas.config.composition import check_config, quoted
from convatlas.config.composition import compose as compose_config
from convatlas.errors import UserError
from convatlas.record.lines import read_metrics
from pipelines.sweep import TYPES, compose, sweep
from tests.conftest import SMALL, read_json
from tests.gates import PATIENCE, Gate

FREE = [item for item in SMALL if not item.startswith(("data.global_batch_size", "trainer.max_epochs"))]
"""Overrides of a run of seconds that leave these to the sweep."""
CHOICE = "_target_:convatlas.sweep.space.Choice"
GRID = ["sweep=grid", "~space.batch", "~space.learning_rate"]


def dry(*overrides: str) -> dict[str, Any]:
    config = compose("sweep", [*overrides, "dry_run=true"])
    check_config(config, TYPES)
    return sweep(config)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("learning_rate", FREE),
        ("grid", FREE),
        ("random_asha", FREE),
        ("hyperband", FREE),
        ("accuracy_and_size", [*FREE, "space.model.values=[resnet20_cifar,plain20_cifar]"]),
        ("optimizers", ["data.global_batch_size=64"]),
    ],
)
def test_every_sweep_that_is_shipped_composes_and_checks(name: str, overrides: list[str], tmp_path: Path) -> None:
    result = dry(f"sweep={name}", *overrides, f"root={tmp_path}")
    assert Path(result["sweep"]).name.startswith(f"{name}-")
    assert list(tmp_path.iterdir()) == []


def test_what_is_searched_makes_the_sweep_and_how_it_is_done_does_not() -> None:
    base = ["sweep=learning_rate", *FREE]
    same = dry(*base)["sweep"]
    for how in (["num_trials=40"], ["num_workers=7"], ["max_retries=0"], ["data.threads=3"], ["resources=one_cpu"]):
        assert dry(*base, *how)["sweep"] == same
    for what in (["seed=1"], ["space.learning_rate.high=1.0"], ["sampler.seed=1"], ["model.label_smoothing=0.2"]):
        assert dry(*base, *what)["sweep"] != same


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["space.learning_rate.key=optimizer.lr"],
            r"space.learning_rate: optimizer.lr=0.05: .*did you mean 'optimizer.learning_rate'",
        ),
        (
            ["+space.epochs={_target_:convatlas.sweep.space.Int,key:trainer.max_epochs,low:0,high:4}"],
            "space.epochs: trainer.max_epochs=0: .*expected a positive integer",
        ),
        (["space.learning_rate.high=0.01"], "space.learning_rate: "),
        (["space.learning_rate.low=small"], "space.learning_rate.low=small: expected"),
        ([f"+space.net={{{CHOICE},key:model,values:[resnet20_cifar,resnet21]}}"], "space.net: model=resnet21: "),
        ([f"+space.b={{{CHOICE},key:data.global_batch_size,values:[5000]}}"], "space.b: data.global_batch_size=5000"),
        (
            ["optimizer.learning_rate=0.1"],
            "space.learning_rate.key=optimizer.learning_rate: expected a key",
        ),
        (
            ["sampler._target_=optuna.samplers.TPSampler"],
            "optuna.samplers.TPSampler: cannot be imported",
        ),
        (["objective=[{metric:test/top1,mode:max}]"], "objective.metric=test/top1: .*not for choosing"),
        (["objective=[{metric:val/top1,mode:up}]"], "objective="),
        (["objective=[{metric:val/topp1,mode:max}]"], "^objective.metric=val/topp1: classification has val/"),
        (
            ["schedule=one_cycle", f"+space.w={{{CHOICE},key:schedule.warmup_fraction,values:[0.3,1.7]}}"],
            "space.w: schedule.warmup_fraction=1.7: .*expected .* from 0 to 1",
        ),
        (
            [
                "schedule=plateau",
                "~schedule.warmup_fraction",
                f"+space.f={{{CHOICE},key:schedule.factor,values:[0.5,2.0]}}",
            ],
            "space.f: schedule.factor=2.0: .*expected a number between 0 and 1",
        ),
        (
            ["space.weight_decay.log=false", "space.weight_decay.low=-1.0"],
            "space.weight_decay: optimizer.algorithm.weight_decay=-1.0: optimizer: Invalid weight_decay",
        ),
        (["objective=[]"], "objective: expected at least one"),
        (["num_trials=0"], "num_trials=0: expected a positive integer"),
        (["cluster=cpu"], "resources: expected resources=NAME"),
        (["run.root=elsewhere"], "run.root: leave it out"),
        (["trainer.max_epochs=ten"], "trainer.max_epochs=ten: expected"),
        (["storage=sqlite:///x.db"], "storage=sqlite://…: expected postgresql or mysql"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        dry("sweep=learning_rate", *FREE, f"root={tmp_path}", *overrides)


def test_trials_go_to_the_sweeps_directory_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr("pipelines.sweep.work_here", lambda resources, directory, own, *others: given.extend(own))
    root = tmp_path / "a=1,b (c) 'd'"
    directory = sweep(compose("sweep", ["sweep=learning_rate", *FREE, f"root={quoted(str(root))}"]))["sweep"]
    assert Path(directory).parent == root
    assert compose_config("train", given).run.root == f"{directory}/runs"


def test_two_commands_at_one_time_submit_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(cluster: object, resources: object, directory: Path, *others: object) -> list[str]:
        with (directory / ".claim-lock").open("a", encoding="utf-8") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return ["7_1"]

    monkeypatch.setattr("pipelines.sweep.submit_workers", submit)
    overrides = ["sweep=learning_rate", *FREE, f"root={tmp_path}", "cluster=cpu", "resources=one_cpu"]
    assert sweep(compose("sweep", overrides))["jobs"] == ["7_1"]


def test_a_password_is_not_told_whatever_is_wrong_with_the_address() -> None:
    for text in ("postgresql://me:se,cret@host/s", "postgresql://me:se(cret@host/s", "[postgresql://me:secret@host/s]"):
        with pytest.raises(UserError, match=r"^storage: cannot be read; quote it") as raised:
            compose("sweep", ["sweep=learning_rate", f"storage={text}"])
        assert "cret" not in str(raised.value)
    quoted = compose("sweep", ["sweep=learning_rate", "storage='postgresql://me:se,cret@host/s'"])
    assert quoted.storage == "postgresql://me:se,cret@host/s"


def test_pruners_want_one_objective_and_a_grid_has_no_more_trials_than_points() -> None:
    two = "objective=[{metric:val/top1,mode:max},{metric:parameters,mode:min}]"
    with pytest.raises(UserError, match=r"pruner=optuna.pruners.SuccessiveHalvingPruner: "):
        dry("sweep=random_asha", *FREE, two)
    with pytest.raises(UserError, match="num_trials=16: the grid has 15 points"):
        dry("sweep=grid", *FREE, "num_trials=16")


def command(tmp_path: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "convatlas", "sweep", *overrides, f"root={tmp_path / 'sweeps'}", "format=json"]


def search(tmp_path: Path, *overrides: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(command(tmp_path, *overrides), capture_output=True, text=True, timeout=PATIENCE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_a_crash_a_divergence_and_a_pruned_trial_leave_the_best_one(tmp_path: Path) -> None:
    overrides = [
        *GRID,
        *SMALL,
        "trainer.max_epochs=4",
        "objective=[{metric:val/loss,mode:min}]",
        f"+space.rate={{{CHOICE},key:optimizer.learning_rate,values:[0.3,1e30,0.2,100]}}",  # 100: a huge loss
        f"+space.clip={{{CHOICE},key:+trainer.gradient_clip_algorithm,values:[none],when:{{rate:0.2}}}}",
        "pruner._target_=optuna.pruners.ThresholdPruner",
        *("+pruner.upper=30", "+pruner.n_warmup_steps=2"),  # from the second epoch on
        "num_trials=4",
    ]
    result, said = search(tmp_path, *overrides, "num_workers=2")
    assert result["state"] == "finished"
    assert [trial["number"] for trial in result["trials"]] == [0, 1, 2, 3]
    assert [trial["state"] for trial in result["trials"]] == ["complete", "fail", "fail", "pruned"]
    assert result["trials"][1]["reason"].startswith("diverged: train/loss is nan")
    assert "gradient_clip_algorithm" in result["trials"][2]["reason"]
    (best,) = result["best"]
    assert best["number"] == 0
    record = read_metrics(tmp_path / best["run"] / "metrics.jsonl")
    assert best["values"]["val/loss"] == min(line["val/loss"] for line in record if "val/loss" in line)
    assert "(4 of 4 ended)" in said

    again, said = search(tmp_path, *overrides, "num_workers=3")
    assert again == result
    assert "ended)" not in said
    compared = subprocess.run(
        [sys.executable, "-m", "convatlas", "report", f"root={result['sweep']}/runs", "format=json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert compared.returncode == 0, compared.stderr


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_training_behind_and_goes_on(tmp_path: Path) -> None:
    overrides = ["sweep=learning_rate", *SMALL, "num_trials=3"]
    with Gate(tmp_path / "gate", step=3) as gate:
        driver = subprocess.Popen(
            command(tmp_path, *overrides, "num_workers=2"),
            cwd=tmp_path,
            env=gate.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        gate.wait(2)
        processes = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        assert psutil.wait_procs(processes, PATIENCE)[1] == []
    summaries = [read_json(path) for path in tmp_path.glob("sweeps/*/runs/*/summary.json")]
    assert [summary["state"] for summary in summaries] == ["preempted", "preempted"]

    result, _ = search(tmp_path, *overrides)
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    provenance = [read_json(tmp_path / trial["run"] / "provenance.json") for trial in result["trials"]]
    assert [len(entry.get("earlier_attempts", [])) for entry in provenance] == [1, 1, 0]
