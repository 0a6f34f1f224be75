"""`convatlas reproduce` on runs of seconds."""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hydra.utils import instantiate

from convatlas.config.composition import compose as compose_config
from convatlas.errors import TrainingFailedError, UserError
from convatlas.jobs import rerun as recorded
from convatlas.jobs import supervisor as processes
from convatlas.jobs.snapshot import snapshot
from convatlas.record.directory import RunDirectory
from convatlas.record.lines import read_metrics
from convatlas.record.provenance import SOURCE
from convatlas.record.reader import read_run
from convatlas.report.views.reproduction import compare_runs
from convatlas.training.plan import plan_run, state_at_start
from convatlas.utils.files import dumps
from convatlas.utils.signals import Preempted
from pipelines.reproduce import compose, reproduce, show
from tests.conftest import SMALL, Command, read_json
from tests.jobs.test_source import git


def again(*overrides: str) -> dict[str, Any]:
    return reproduce(compose("reproduce", overrides))


def files(run: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(run.rglob("*")) if path.is_file()}


def expectation(value: float, tolerance: float | None, metric: str = "test/top1") -> str:
    given = "null" if tolerance is None else tolerance
    return f"{{metric: {metric}, value: {value}, tolerance: {given}, source: table 6}}"


def experiment(trained: dict[str, Any], *expectations: str, seeds: str = "[0]") -> list[str]:
    root = Path(trained["run"]).parent
    return [*SMALL, f"run.root={root}", f"expected=[{','.join(expectations)}]", f"seeds={seeds}"]


def test_a_run_once_more_is_bit_identical_and_the_original_is_as_it_was(
    trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(Path(trained["run"]))
    result = again(f"run={trained['run']}", "code=current", f"run.root={tmp_path}")
    assert (result["verdict"], result["reproduced"], result["equal_weights"]) == ("bit-identical", True, True)
    assert result["differences"] == []
    assert result["values"] > 20
    assert files(Path(trained["run"])) == before
    configs = [read_run(Path(path)).config for path in (result["run"], trained["run"])]
    assert {key for key in configs[0] if configs[0][key] != configs[1][key]} <= {"run", "tracking"}
    show(result)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["verdict", "bit-identical"]

    tampered = shutil.copytree(trained["run"], tmp_path / "tampered")
    lines = read_metrics(tampered / "metrics.jsonl")
    line = [line for line in lines if "train/loss" in line][-1]
    line["train/loss"] *= 1.01
    (tampered / "metrics.jsonl").write_text("".join(f"{dumps(line)}\n" for line in lines), encoding="utf-8")
    sides = [tampered, Path(result["run"])]
    curves = [read_metrics(side / "metrics.jsonl") for side in sides]
    original, repeated = map(read_run, sides)
    agreement = compare_runs(original, repeated, curves, 0.001)
    assert agreement.sentence(agreement.verdict(equal_weights=True)).startswith(
        f"different from step {line['step']}: train/loss"
    )


def test_other_images_are_refused_before_anything_is_trained(trained: dict[str, Any], tmp_path: Path) -> None:
    run = shutil.copytree(trained["run"], tmp_path / "run")
    provenance = read_json(run / "provenance.json")
    (run / "provenance.json").write_text(dumps(provenance | {"data_fingerprint": "f" * 64}), encoding="utf-8")
    with pytest.raises(UserError, match=r"^data: these are not the data of the run: .*recorded ffffffffffff"):
        again(f"run={run}", "code=current", f"run.root={tmp_path / 'again'}")
    assert not (tmp_path / "again").exists()


def test_the_state_at_the_start_depends_on_the_seed_and_on_nothing_else() -> None:
    def start(*overrides: str) -> dict[str, str]:
        config = compose_config("train", [*SMALL, *overrides])
        pl.seed_everything(config.seed, verbose=False)
        _, data = plan_run(config)
        return state_at_start(instantiate(config.model, optimizer=None, schedule=None), data)

    first = start()
    assert start("trainer.max_epochs=9", "data.threads=5", "trainer.accumulate_grad_batches=2") == first
    other = start("seed=1")
    assert all(other[name] != first[name] for name in first)


def test_an_unfinished_run_is_refused(trained: dict[str, Any], tmp_path: Path) -> None:
    run = shutil.copytree(trained["run"], tmp_path / "run")
    (run / "summary.json").write_text(dumps(read_json(run / "summary.json") | {"state": "preempted"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"it is preempted; expected a finished run"):
        again(f"run={run}")


@pytest.mark.parametrize(
    ("expectations", "good", "verdicts"),
    [
        ([expectation(0.5, 0.5)], True, ["as expected"]),
        ([expectation(-1, 0.1)], True, ["better"]),
        ([expectation(2, 0.1), expectation(0.5, 0.5)], False, ["worse", "as expected"]),
        ([expectation(0.5, 0.5), expectation(2, None)], True, ["as expected", ""]),
        ([expectation(0.5, 0.5, "test/mean_iou")], False, ["no result yet"]),
    ],
)
def test_an_experiment_is_judged_by_what_has_a_tolerance(
    trained: dict[str, Any],
    expectations: list[str],
    good: bool,
    verdicts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = files(Path(trained["run"]))
    result = again(*experiment(trained, *expectations))
    assert (result["reproduced"], [row["verdict"] for row in result["metrics"]]) == (good, verdicts)
    assert files(Path(trained["run"])) == before  # finished: not run again
    show(result)
    assert "table 6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"^expected: nothing here has a tolerance"),
        (["expected=[{metric: test/top1, value: 1, source: a}]"], r"^expected: nothing here has a tolerance"),
        (["experiment=quickstart", "seed=1"], r"^seed: leave it out"),
        (["experiment=quickstart", "seeds=[]"], r"^seeds=\[\]: expected at least one"),
        (["experiment=quickstart", "seeds=[1,1]"], r"^seeds=\[1, 1\]: expected .* each once"),
        (["experiment=quickstart", "tolerance=0.1"], r"^tolerance: goes with run=DIR"),
        (["run=nowhere"], r"^nowhere: expected a run directory"),
    ],
)
def test_mistakes_are_told_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        again(*overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ("print('convatlas: error: data.root: no such folder'); exit(2)", UserError, "^data.root: no such folder$"),
        ("raise MemoryError('all of it')", TrainingFailedError, r"failed with status 1 \(.*\): MemoryError: all of it"),
        ("exit(75)", Preempted, "another process"),
    ],
)
def test_how_a_training_ended_is_told_with_its_own_words(
    script: str, error: type[BaseException], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "train_command", lambda overrides, ranks: [sys.executable, "-c", script])
    with pytest.raises(error, match=message):
        processes.run_training(RunDirectory(tmp_path / "run"), [])


BEGINS_AND_FAILS = """
import os, pathlib
run = pathlib.Path(os.environ["RUN"])
run.mkdir(exist_ok=True)
summary = '{"state": "failed", "reason": "DivergedError: nan", "ended": "2026-01-02T00:00Z"}'
(run / "summary.json").write_text(summary, encoding="utf-8")
print("convatlas: error: train/loss is nan")
exit(2)
"""


def test_a_run_that_began_has_failed_and_one_that_did_not_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, script = RunDirectory(tmp_path / "run"), BEGINS_AND_FAILS
    monkeypatch.setattr(processes, "train_command", lambda overrides, ranks: [sys.executable, "-c", script])
    with pytest.raises(TrainingFailedError, match=r"run: .* status 2 \(.*run\.log\): train/loss is nan$"):
        processes.run_training(run, [], environment={"RUN": str(run.path)})
    script = "print('refused'); exit(2)"  # what an earlier attempt said counts no more, nor how it ended
    with pytest.raises(UserError, match=r"^refused$"):
        processes.run_training(run, [])


def test_a_seed_that_failed_spoils_the_verdict_and_not_the_other_seeds(
    trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "train_command", lambda overrides, ranks: [sys.executable, "-c", "exit(1)"])
    result = again(*experiment(trained, expectation(0.5, 0.5), seeds="[1,0]"))
    assert [run["state"] for run in result["runs"]] == ["not started", "finished"]
    assert (result["reproduced"], result["metrics"][0]["verdict"]) == (False, "as expected")
    assert "failed with status 1" in capsys.readouterr().err


@pytest.mark.slow
def test_an_experiment_trains_the_seeds_that_are_missing(
    trained: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(trained["run"], root / trained["run_id"])
    result = again(*experiment({"run": root / "any"}, expectation(0.5, 0.5), seeds="[0,1]"))
    assert result["reproduced"]
    assert [run["state"] for run in result["runs"]] == ["finished", "finished"]
    tops = [read_run(Path(run["run"])).results["test/top1"] for run in result["runs"]]
    found = result["metrics"][0]["found"]
    assert (found["mean"], found["deviation"], found["count"]) == (
        pytest.approx(statistics.fmean(tops)),
        pytest.approx(statistics.stdev(tops)),
        2,
    )
    assert capsys.readouterr().err.count("convatlas: training ") == 1
    show(result)
    assert "±" in capsys.readouterr().out


@pytest.mark.slow
def test_the_status_of_the_command_is_the_verdict(trained: dict[str, Any], convatlas: Command) -> None:
    done = convatlas("reproduce", *experiment(trained, expectation(2, 0.1)))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "verdict  not reproduced")
    done = convatlas("reproduce", *experiment(trained, expectation(0.5, 0.5)), "format=json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (0, "reproduced")


@pytest.mark.slow
def test_another_seed_is_different_from_step_0(trained: dict[str, Any], tmp_path: Path) -> None:
    result = again(f"run={trained['run']}", "code=current", "seed=1", f"run.root={tmp_path}")
    assert not result["reproduced"]
    assert result["verdict"].startswith("different from step 0: initial_weights recorded ")
    assert result["differences"][0] == "seed=1 on the command line"


@pytest.mark.slow
def test_the_recorded_code_runs_with_its_uncommitted_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = snapshot(SOURCE, tmp_path / "copies").rename(tmp_path / "repository")
    (repository / "git.json").unlink()
    (repository / "pyproject.toml").touch()
    git(repository, "init", "-q")
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    order = repository / "src/convatlas/data/sampler.py"
    text = order.read_text(encoding="utf-8")
    assert "default_rng([seed, epoch])" in text
    order.write_text(text.replace("default_rng([seed, epoch])", "default_rng([seed, epoch, 1])"), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(repository / "src"))
    command = [sys.executable, "-m", "convatlas", "train", *SMALL]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    order.write_text(text, encoding="utf-8")  # the change is on record only
    monkeypatch.setattr(recorded, "SOURCE", repository)
    monkeypatch.chdir(tmp_path)
    (run,) = (tmp_path / "runs").iterdir()

    result = again(f"run={run}")
    assert result["verdict"] == "bit-identical"
    assert result["code"].endswith("with uncommitted changes, as recorded")

    current = again(f"run={run}", "code=current")
    assert current["verdict"].startswith("different from step 0: first_order recorded")
