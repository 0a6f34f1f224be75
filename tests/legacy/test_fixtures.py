"""Runs of commit a11ee17 evaluate, predict and report; the commands of unfinished ones go on with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.config.composition import compose
from convatlas.training.restore import restored_config
from pipelines.evaluate import evaluate
from pipelines.predict import predict
from pipelines.report import report
from pipelines.runs import runs
from pipelines.train import train
from tests.conftest import read_json
from tests.legacy.commands import FIXTURES, STOPPED_AFTER, STUDY, SWEEP, TRAIN, convatlas, write_masks

FINISHED = ("finished_classification", "finished_segmentation", "finished_detection")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the finished runs; read them, do not change them."""
    folder = tmp_path_factory.mktemp("legacy")
    for name in FINISHED:
        shutil.copytree(FIXTURES / name, folder / name)
    return folder


def copied(name: str, folder: Path) -> Path:
    """A copy of a working directory that a test may change."""
    return Path(shutil.copytree(FIXTURES / name, folder / name))


def only_run(directory: Path) -> Path:
    """The one run of a working directory."""
    (run,) = (directory / "runs").iterdir()
    return run


def read_lines(run: Path) -> list[dict[str, Any]]:
    """The record of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def quantities(lines: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """Step and name of each figure of a record, in order, but for those of the clock."""
    others = ("step", "epoch", "time", "train/images_per_second", "train/data_wait")
    return [(line["step"], name) for line in lines for name in line if name not in others]


def figures(lines: list[dict[str, Any]], name: str) -> list[float]:
    """All values of a figure."""
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("name", FINISHED)
def test_a_checkpoint_evaluates_to_the_recorded_figures(name: str, finished: Path, tmp_path: Path) -> None:
    run = only_run(finished / name)
    overrides = [f"checkpoint={run / 'checkpoints' / 'best.ckpt'}", f"output={tmp_path}", "data.threads=1"]
    if name == "finished_classification":
        overrides.append("trainer.limit_test_batches=1")
    found = evaluate(restored_config("evaluate", overrides))["metrics"]
    recorded = read_json(run / "summary.json")["test"]
    assert set(recorded) <= set(found)
    for key, value in recorded.items():
        tolerance = 1e-3 if key == "test/loss" else 0.07  # one of sixteen images
        assert found[key] == pytest.approx(value, abs=tolerance), key


@pytest.mark.parametrize("name", FINISHED)
def test_the_command_of_a_finished_run_shows_its_result(
    name: str, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished / name)
    result = train(compose("train", TRAIN[name]))
    assert result["already_finished"]
    assert finished / name / result["run"] == only_run(finished / name)
    assert result["test"] == read_json(only_run(finished / name) / "summary.json")["test"]


def predicted(run: Path, images: str, output: Path) -> dict[str, dict[str, Any]]:
    """What ``convatlas predict`` says of stored images of the run's evaluation, by the file's name."""
    overrides = [f"checkpoint={run}", f"images='{run}/evaluation/test/{images}'", f"output={output}"]
    return {Path(row["path"]).name: row for row in predict(compose("predict", overrides))["predictions"]}


def test_a_classifier_predicts_what_it_did(finished: Path, tmp_path: Path) -> None:
    run = only_run(finished / "finished_classification")
    rows = predicted(run, "*.png", tmp_path)
    classes = (run / "class_list.txt").read_text(encoding="utf-8").splitlines()
    recorded = read_json(run / "evaluation" / "test.json")["samples"]
    assert len(rows) == len(recorded) == 16
    for sample in recorded:
        row = rows[Path(sample["image"]).name]
        assert row["prediction"] == classes[sample["prediction"]]
        assert row["confidence"] == pytest.approx(sample["confidence"], abs=1e-3)


def test_a_segmenter_predicts_what_it_did(finished: Path, tmp_path: Path) -> None:
    run = only_run(finished / "finished_segmentation")
    rows = predicted(run, "*-image.png", tmp_path)
    assert len(rows) == 4
    for name, row in rows.items():
        recorded = run / "evaluation" / "test" / name.replace("-image", "-prediction")
        differs = np.array(Image.open(row["mask"])) != np.array(Image.open(recorded))
        assert differs.mean() < 0.01  # scores may be all but equal


def test_a_detector_predicts(finished: Path, tmp_path: Path) -> None:
    run = only_run(finished / "finished_detection")
    (row,) = predicted(run, "*-label_overlay.png", tmp_path).values()
    classes = (run / "class_list.txt").read_text(encoding="utf-8").splitlines()
    assert row["objects"]
    assert {found["class"] for found in row["objects"]} <= set(classes)


def test_runs_lists_every_state() -> None:
    states = {
        name: [run["state"] for run in runs(compose("runs", [f"root={FIXTURES / name / 'runs'}"]))["runs"]]
        for name in (*TRAIN, "unfinished_study")
    }
    expected = {name: ["finished"] for name in FINISHED} | {name: ["preempted"] for name in STOPPED_AFTER}
    assert {name: sorted(found) for name, found in states.items()} == expected | {
        "unfinished_study": ["finished", "preempted"]
    }


@pytest.mark.parametrize("name", FINISHED)
def test_a_run_has_a_report(name: str, finished: Path, tmp_path: Path) -> None:
    run = only_run(finished / name)
    report(compose("report", [f"run={run}", f"output={tmp_path / 'report.html'}"]))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    summary = read_json(run / "summary.json")
    value = summary["test"][summary["best"]["metric"].replace("val/", "test/")]
    assert run.name in page
    assert f"**{100 * value:.2f} %**" in markdown


def test_runs_of_a_sweep_have_a_report(tmp_path: Path) -> None:
    (root,) = (FIXTURES / "unfinished_sweep" / "sweeps").glob("*/runs")
    report(compose("report", [f"root={root}", f"output={tmp_path / 'report.html'}"]))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(run.name in page for run in root.iterdir())


def check_continuation(run: Path, old: Path) -> None:
    """A run that was stopped is finished, in place: its old lines as they were, no figure of a step twice."""
    assert read_json(run / "summary.json")["state"] == "finished"
    before, after = (path / "metrics.jsonl" for path in (old, run))
    assert after.read_bytes().startswith(before.read_bytes())
    found = quantities(read_lines(run))
    assert len(set(found)) == len(found)
    assert len(read_json(run / "provenance.json")["earlier_attempts"]) == 1


@pytest.mark.parametrize("name", STOPPED_AFTER)
def test_the_command_of_an_unfinished_run_goes_on_with_it(name: str, tmp_path: Path) -> None:
    directory = copied(name, tmp_path)
    run = only_run(directory)
    if name == "unfinished_mask_folders":
        write_masks(directory / "images")
    finished = convatlas(directory, "train", *TRAIN[name], "format=json")
    assert directory / json.loads(finished.stdout)["run"] == run == only_run(directory)
    assert f"resumed after step {STOPPED_AFTER[name]}" in finished.stderr
    check_continuation(run, only_run(FIXTURES / name))
    lines, expected = read_lines(run), read_json(FIXTURES / name / "end.json")["metrics"]
    assert quantities(lines) == quantities(expected)
    for figure in ("train/loss", "val/loss", "test/loss"):  # other instruction sets: up to 2e-4
        assert figures(lines, figure) == pytest.approx(figures(expected, figure), rel=5e-3)


@pytest.mark.slow
def test_the_command_of_an_unfinished_sweep_goes_on_with_it(tmp_path: Path) -> None:
    directory, old = copied("unfinished_sweep", tmp_path), FIXTURES / "unfinished_sweep"
    (sweep,) = (directory / "sweeps").iterdir()
    result = json.loads(convatlas(directory, "sweep", *SWEEP, "format=json").stdout)
    assert directory / result["sweep"] == sweep
    assert list((directory / "sweeps").iterdir()) == [sweep]
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    check_runs(sweep / "runs", old / "sweeps" / sweep.name / "runs", 3)
    assert {Path(trial["run"]).name for trial in result["trials"]} == {run.name for run in (sweep / "runs").iterdir()}


@pytest.mark.slow
def test_the_command_of_an_unfinished_study_goes_on_with_it(tmp_path: Path) -> None:
    directory, old = copied("unfinished_study", tmp_path), FIXTURES / "unfinished_study"
    result = json.loads(convatlas(directory, "study", *STUDY, "format=json").stdout)
    assert [run["state"] for run in result["runs"]] == ["finished"] * 2
    check_runs(directory / "runs", old / "runs", 2)
    assert {Path(run["run"]).name for run in result["runs"]} == {run.name for run in (directory / "runs").iterdir()}
    assert [cell["n"] for cell in result["outcome"]["results"]] == [1, 1]


def check_runs(root: Path, old: Path, count: int) -> None:
    """Of the old runs, the finished one is untouched and the stopped one has gone on; the others are new."""
    names = {run.name for run in root.iterdir()}
    assert len(names) == count
    assert {run.name for run in old.iterdir()} <= names
    for run in old.iterdir():
        if read_json(run / "summary.json")["state"] == "finished":
            for file in ("summary.json", "metrics.jsonl", "checkpoints/last.ckpt"):
                assert (root / run.name / file).read_bytes() == (run / file).read_bytes()
        else:
            check_continuation(root / run.name, run)
