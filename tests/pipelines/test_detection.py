"""Detection through every verb, and a detector that is killed and goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.kill_and_resume import difference, only_run
from convatlas.analysis.networks import described_config, described_networks
from convatlas.config.composition import check_config, compose
from convatlas.data.sources.shapes import scene
from convatlas.errors import UserError
from convatlas.training.restore import restored_config
from pipelines.check import check
from pipelines.data_show import data_show
from pipelines.evaluate import TYPES, evaluate
from pipelines.predict import predict
from pipelines.report import report
from pipelines.train import train
from tests.conftest import read_json
from tests.tasks.detection.test_task import TINY

RUN = [*TINY, "tracking=none", "trainer.max_epochs=2", "run.checkpoint_steps=1", "model.net.regions.score=0.3"]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a small run that is finished; read it, do not change it."""
    return train(compose("train", [*RUN, f"run.root={tmp_path_factory.mktemp('detector') / 'runs'}"]))


def test_a_run_leaves_losses_precision_and_pictures(detector: dict[str, Any]) -> None:
    run = Path(detector["run"])
    assert detector["best"]["metric"] == "val/box_map"
    assert {"test/box_map", "test/box_map_50", "test/mask_map", "test/mask_map_50"} <= detector["test"].keys()
    record = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert all(f'"train/loss_{part}"' in record for part in ("classifier", "box_reg", "objectness", "mask"))
    written = read_json(run / "evaluation" / "test.json")
    assert [row["class"] for row in written["per_class_ap"]] == ["circle", "square", "triangle", "star"]
    assert sum(row["objects"] for row in written["per_class_ap"]) > 0
    assert {"box_ap", "box_ap_50", "mask_ap", "mask_ap_50"} <= written["per_class_ap"][0].keys()
    assert len(written["detected"]) == written["num_samples"] == 5
    for shown in written["detected"]:
        for kind in ("label_overlay", "prediction_overlay"):
            with Image.open(run / "evaluation" / shown[kind]) as picture:
                assert max(picture.size) == 320


def test_evaluate_finds_the_runs_own_figures(detector: dict[str, Any]) -> None:
    config = restored_config("evaluate", [f"run={detector['run']}"])
    check_config(config, TYPES)
    result = evaluate(config)
    assert result["metrics"] == detector["test"]
    assert result["num_samples"] == 5
    assert result["protocol"] == "whole_image"


def test_check_tries_a_step_and_names_data_that_do_not_fit(tmp_path: Path) -> None:
    found = check(compose("check", [*TINY, f"run.root={tmp_path}"]))
    assert found["batch"].startswith("(4, 3, 64, 64) forward and backward, loss ")
    with pytest.raises(UserError, match=r"data=shapes_objects has no masks"):
        check(compose("check", [*TINY, "data.dataset.masks=false", f"run.root={tmp_path}"]))
    with pytest.raises(UserError, match=r"data=shapes_objects is for detection, model=resnet18 for classification"):
        check(compose("check", ["data=shapes_objects", "model=resnet18", f"run.root={tmp_path}"]))


def test_the_report_shows_precision_by_class_and_objects(detector: dict[str, Any], tmp_path: Path) -> None:
    result = report(compose("report", [f"run={detector['run']}", f"output={tmp_path / 'report.html'}"]))
    page = Path(result["report"]).read_text(encoding="utf-8")
    assert "Average precision of each class" in page
    assert "Mask AP 50" in page
    assert page.count('alt="what the network found"') >= 5


def test_an_ensemble_of_detectors_is_refused(detector: dict[str, Any]) -> None:
    config = restored_config("evaluate", [f"run=[{detector['run']},{detector['run']}]"])
    with pytest.raises(UserError, match="an ensemble is of classification networks"):
        evaluate(config)


def test_a_protocol_of_classification_is_refused(detector: dict[str, Any]) -> None:
    config = restored_config("evaluate", [f"run={detector['run']}", "protocol=ten_crop"])
    with pytest.raises(
        UserError, match=r"protocol: protocol\.views\.resize asks for data\.resize, which these data do not"
    ):
        check_config(config, TYPES)
    with pytest.raises(UserError, match=r"protocol=overlap_tile: it is not for detection"):
        evaluate(restored_config("evaluate", [f"run={detector['run']}", "protocol=overlap_tile"]))


def test_predict_lists_objects_and_draws_them(detector: dict[str, Any], tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for index, size in enumerate([(48, 64), (64, 48), (80, 60)]):
        Image.fromarray(scene(5, index, size).image).save(photographs / f"{index}.png")
    overrides = [f"checkpoint={detector['run']}", f"images={photographs}", f"output={tmp_path / 'out'}"]
    result = predict(compose("predict", overrides))
    assert len(result["predictions"]) == 3
    objects = [one for row in result["predictions"] for one in row["objects"]]
    lines = Path(result["csv"]).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "path,class,score,x0,y0,x1,y1"
    assert len(lines) == 1 + len(objects)
    for row, (height, width) in zip(result["predictions"], [(48, 64), (64, 48), (80, 60)], strict=True):
        for one in row["objects"]:
            assert one["mask"]["size"] == [height, width]
            x0, y0, x1, y1 = one["box"]
            assert 0 <= x0 <= x1 <= width
            assert 0 <= y0 <= y1 <= height
    assert Path(result["page"]).read_text(encoding="utf-8").count("data:image/png") == 3


def test_a_detector_s_layers_are_not_described(detector: dict[str, Any]) -> None:
    for overrides in (["model=faster_rcnn_vgg16"], [f"run={detector['run']}"]):
        with pytest.raises(UserError, match=r"what a detector computes depends on what it sees; describe its backbone"):
            described_networks(described_config("describe", overrides))


def test_verbs_about_classes_refuse_objects_by_name() -> None:
    with pytest.raises(UserError, match="data=shapes_objects is for detection; this verb is for classification"):
        data_show(compose("data_show", ["data=shapes_objects"]))


CHILD = """
import sys
from benchmarks.kill_and_resume import MOMENTS, signal_in
from convatlas.config.composition import compose
from convatlas.tasks.detection.task import DetectionTask
from pipelines.train import train
from tests.pipelines.test_detection import RUN

root, *kill = sys.argv[1:]
if kill:
    owner = DetectionTask if kill[0].endswith("_step") else MOMENTS[kill[0]][0]
    signal_in(owner, kill[0] if owner is DetectionTask else MOMENTS[kill[0]][1], int(kill[1]), 9)
train(compose("train", [*RUN, f"run.root={root}"]))
"""


def run_once(root: Path, *kill: str) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    top = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([top, environment.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), *kill], capture_output=True, text=True, env=environment
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.slow
def test_a_detector_killed_three_times_ends_bit_identical(tmp_path: Path) -> None:
    """Anchors and regions are drawn from the process's random numbers, which go on too."""
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert run_once(alone) == 0
    for moment, call in (("training_step", "2"), ("validation_step", "1"), ("writing", "2")):
        assert run_once(killed, moment, call) == -signal.SIGKILL
    assert run_once(killed) == 0
    runs = [only_run(killed), only_run(alone)]
    assert difference(*runs) is None
    one, other = (read_json(run / "summary.json") for run in runs)
    assert one["test"] == other["test"]
