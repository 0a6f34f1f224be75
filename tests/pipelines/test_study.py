"""Small studies, really run."""

import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from convatlas.config.composition import compose as compose_config
from convatlas.config.composition import compose_around_train as compose
from convatlas.config.composition import project_path
from convatlas.data.classification import datasets as dataset
from convatlas.errors import UserError
from convatlas.studies.design import read_study
from pipelines.study import show, study
from pipelines.train import train
from tests.conftest import SMALL, read_json
from tests.gates import PATIENCE, Gate

ASKED = {
    "name": "small",
    "question": "Do shortcuts help?",
    "overrides": [*SMALL, "trainer.max_epochs=1"],
    "arms": {
        "plain": {"label": "plain-20", "overrides": ["model=plain20_cifar"]},
        "residual": {"label": "ResNet-20", "overrides": ["model=resnet20_cifar"]},
    },
    "seeds": [0, 1],
    "metric": "test/top1",
    "expect": [{"better": "residual", "worse": "plain", "source": "He et al. 2016"}],
}


def ask(folder: Path, *overrides: str, **changes: Any) -> dict[str, Any]:
    own = [f"output={folder / 'study'}", f"run.root={folder / 'runs'}", *overrides]
    config = compose("study", ["study=quickstart_depth", *own])
    config.study = OmegaConf.create(ASKED | changes)
    return study(config)


def train_all(folder: Path, asked: Mapping[str, Any] = ASKED) -> None:
    for arm in asked["arms"].values():
        for seed in asked["seeds"]:
            overrides = [*asked["overrides"], *arm["overrides"], f"seed={seed}", f"run.root={folder / 'runs'}"]
            train(compose_config("train", overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all runs of the study; read it, do not change them."""
    folder = tmp_path_factory.mktemp("finished")
    train_all(folder)
    return folder


def test_runs_that_are_there_are_not_run_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*.ckpt")}
    result = ask(finished)
    assert {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*.ckpt")} == before
    assert [run["state"] for run in result["runs"]] == ["finished"] * 4
    assert result["failed"] == []
    summaries = [read_json(path) for path in sorted((finished / "runs").glob("plain*/summary.json"))]
    values = result["outcome"]["results"][0]["values"]
    assert [value["value"] for value in values] == [summary["test"]["test/top1"] for summary in summaries]
    assert result["outcome"]["findings"][0]["test"]["test"] in ("t", "sign")
    show(result)
    told = capsys.readouterr().out
    assert told.startswith("4 runs, 0 not finished\n")
    assert "ResNet-20 better than plain-20" in told


def test_a_damaged_run_is_left_out_of_the_study_and_named(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    plain, residual = (next((tmp_path / "runs").glob(f"{name}*-s1")) for name in ("plain20", "resnet20"))
    (plain / "summary.json").write_bytes(b"\0" * 100)
    with (residual / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("oops\n")
    result = ask(tmp_path)
    assert sorted(run["state"] for run in result["runs"]) == ["damaged", "finished", "finished", "finished"]
    assert result["failed"] == []
    assert [len(entry["values"]) for entry in result["outcome"]["results"]] == [1, 1]
    said = capsys.readouterr().err
    for damage in (f"{plain / 'summary.json'}: damaged, expected", f"{residual / 'metrics.jsonl'}:"):
        assert damage in said
        for kind in ("page", "data"):
            assert damage in Path(result["files"][kind]).read_text(encoding="utf-8")
    assert (plain / "summary.json").read_bytes() == b"\0" * 100


def test_data_are_opened_once_for_all_arms_and_seeds(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    original = dataset.fashion_mnist_sample

    def count(*arguments: Any, **options: Any) -> Any:
        opened.append(1)
        return original(*arguments, **options)

    monkeypatch.setattr(dataset, "fashion_mnist_sample", count)
    ask(finished, "dry_run=true")
    assert len(opened) == 1


def test_a_dry_run_lists_what_is_missing_and_leaves_nothing(finished: Path, tmp_path: Path) -> None:
    result = ask(finished, "dry_run=true", f"output={tmp_path / 'study'}", seeds=[0, 1, 2])
    assert [Path(run["run"]).name[-3:] for run in result["runs"] if run["state"] != "finished"] == ["-s2", "-s2"]
    assert not (tmp_path / "study").exists()


def test_the_missing_runs_become_one_array(finished: Path) -> None:
    result = ask(finished, "dry_run=true", "cluster=cpu", "resources=one_cpu", "array_limit=1", seeds=[0, 1, 2])
    words = shlex.split(result["submitted"]["command"])
    assert {"--array=1,2%1", "--job-name=small"} <= set(words)
    assert [entry["state"] for entry in result["submitted"]["runs"]] == ["to be submitted"] * 2


@pytest.mark.slow
def test_what_is_missing_is_run_and_an_arm_that_fails_stops_no_other(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    for run in (finished / "runs").glob("*-s1"):
        (tmp_path / "runs" / run.name).symlink_to(run)
    arms = {
        "plain": ASKED["arms"]["plain"],  # type: ignore[index]
        "residual": {"label": "ResNet-20", "overrides": ["model=resnet20_cifar", "model.weights=nowhere.pt"]},
    }
    result = ask(tmp_path, "num_workers=2", arms=arms)
    residual = [run["run"] for run in result["runs"] if "resnet20" in run["run"]]
    assert [(entry["name"], entry["status"]) for entry in result["failed"]] == [(Path(run).name, 2) for run in residual]
    assert all(
        "model.weights=nowhere.pt" in Path(entry["log"]).read_text(encoding="utf-8") for entry in result["failed"]
    )
    assert [cell["n"] for cell in result["outcome"]["results"]] == [2, 0]
    assert result["outcome"]["findings"][0]["verdict"] == "no result yet"
    assert result["outcome"]["notes"] == ["ResNet-20: 0 of 2 figures are there."]
    show(result)
    assert "status 2: " in capsys.readouterr().out
    serial = read_json(next((finished / "runs").glob("plain*-s0/summary.json")))["test"]
    assert result["outcome"]["results"][0]["values"][0]["value"] == serial["test/top1"]


@pytest.mark.slow
def test_crops_and_ensembles_of_the_same_runs_are_arms(finished: Path) -> None:
    residual = ASKED["arms"]["residual"]["overrides"]  # type: ignore[index]
    arms = {
        "one": {"label": "one crop", "overrides": residual},
        "ten": {
            "label": "ten crops",
            "overrides": residual,
            "evaluate": ["protocol=ten_crop", "data.resize=40", "trainer.limit_test_batches=3"],
        },
        "two": {"label": "ensemble", "overrides": residual, "evaluate": ["trainer.limit_test_batches=3"], "members": 2},
    }
    expect = [{"better": arm, "worse": "one", "source": ""} for arm in ("ten", "two")]
    result = ask(finished, "num_workers=2", arms=arms, expect=expect)
    assert len(result["runs"]) == 2  # shared by all arms
    assert result["failed"] == []
    found = {cell["arm"]: cell["values"] for cell in result["outcome"]["results"]}
    assert [[value["seeds"] for value in values] for values in found.values()] == [[[0], [1]], [[0], [1]], [[0, 1]]]
    (ensemble,) = (
        evaluation
        for path in (finished / "study" / "evaluations").glob("*/*.json")
        if isinstance((evaluation := read_json(path))["checkpoint"], list)
    )
    assert found["two"][0]["value"] == ensemble["metrics"]["test/top1"]
    assert [len(finding["test"]["differences"]) for finding in result["outcome"]["findings"]] == [2, 1]
    before = {path: path.stat().st_mtime_ns for path in (finished / "study" / "evaluations").rglob("*")}
    assert ask(finished, arms=arms, expect=expect)["outcome"] == result["outcome"]
    assert {path: path.stat().st_mtime_ns for path in (finished / "study" / "evaluations").rglob("*")} == before


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        (["model.net.depht=1"], {}, r"study\.arms\.plain: .*did you mean"),
        (["model=resnet20_cifar"], {}, "'plain-20' and 'ResNet-20' are the same run"),
        (["seed=3"], {}, r"study\.arms\.plain: seed: expected study\.seeds"),
        (["run.fresh=true"], {}, "run.fresh: a study resumes its runs"),
        (["cluster=cpu"], {}, "cluster and resources: give both"),
        ([], {"metric": "test/mean_iou"}, r"study\.metric=test/mean_iou: classification has test/\(loss"),
        ([], {"expect": [{"better": "a", "worse": "plain", "source": ""}]}, r"study\.expect\.0\.better=a"),
        (["trainer.max_epochs=ten"], {}, r"study\.arms\.plain: trainer\.max_epochs=ten: expected"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    tmp_path: Path, overrides: list[str], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ask(tmp_path, *overrides, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(project_path("conf").glob("study/*.yaml")), ids=lambda path: path.stem)
def test_every_study_that_comes_along_is_well_formed(path: Path) -> None:
    assert read_study(yaml.safe_load(path.read_text(encoding="utf-8"))).name == path.stem


@pytest.mark.slow
def test_a_study_that_is_stopped_saves_its_trainings_and_goes_on(tmp_path: Path) -> None:
    overrides = [item for item in SMALL if not item.startswith(("experiment=", "tracking="))]  # which the study has
    words = [sys.executable, "-m", "convatlas", "study", "study=quickstart_depth", "study.seeds=[0]", *overrides]
    with Gate(tmp_path / "gate", step=3) as gate:
        with (tmp_path / "errors").open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                words, cwd=tmp_path, env=gate.environment, stderr=errors, stdout=subprocess.DEVNULL
            )
        gate.wait()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 75
    (summary,) = tmp_path.glob("runs/*/summary.json")  # one at a time: the other arm had not begun
    assert read_json(summary)["state"] == "preempted"
    assert "waiting for 1 to stop" in (tmp_path / "errors").read_text(encoding="utf-8")
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("studies/*/logs/plain20*.log")
    assert "resumed after step 4" in log.read_text(encoding="utf-8")
    plain, residual = (
        read_json(next(tmp_path.glob(f"runs/{arm}_cifar*/summary.json")))["test"]["test/top1"]
        for arm in ("plain20", "resnet20")
    )
    verdict = "right direction, one seed" if residual > plain else "wrong direction, one seed"
    assert ("not distinguishable" if residual == plain else verdict) in done.stdout
