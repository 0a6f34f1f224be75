"""From training to the report: every verb on a small U-Net and scenes of shapes."""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate as build
from PIL import Image

from convatlas.config.composition import check_config, compose
from convatlas.data.batch import IGNORE_INDEX
from convatlas.data.sources.shapes import CLASSES, scene
from convatlas.data.sources.shapes_on_disk import write_voc
from convatlas.errors import UserError
from convatlas.training.checkpoint_io import read_run_checkpoint
from convatlas.training.restore import load_net, restored_config
from pipelines.check import check
from pipelines.evaluate import TYPES, evaluate
from pipelines.predict import predict
from pipelines.report import report
from pipelines.train import train
from tests.conftest import Command, read_json
from tests.data.segmentation.test_loading import replace_mask
from tests.data.test_labels import masks_of
from tests.tasks.numpy_reference import reference

SMALL = [
    "experiment=quickstart_segmentation",
    "tracking=none",
    "model.net.width=4",
    "model.net.levels=3",
    "data.dataset.train=40",
    "data.dataset.test=10",
    "data.dataset.size=32",
    "data.image_size=32",
    "data.global_batch_size=6",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=2",
]


def write_voc_of_shapes(root: Path) -> Path:
    voc = write_voc(root, {"train": 12, "val": 3}, size=(32, 40))
    (voc / "classes.txt").write_text("\n".join(["background", *CLASSES]) + "\n", encoding="utf-8")
    return voc


def on_voc(voc: Path) -> list[str]:
    return [
        "data=voc_masks_folder",
        f"data.root={voc}",
        "data.image_size=32",
        "data.global_batch_size=5",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
    ]


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("segmented") / "runs"
    return train(compose("train", [*SMALL, f"run.root={root}"]))


def evaluated(*overrides: str) -> dict[str, Any]:
    config = restored_config("evaluate", overrides)
    check_config(config, TYPES)
    return evaluate(config)


def test_the_reported_metrics_are_numpys(segmented: dict[str, Any]) -> None:
    net = load_net(read_run_checkpoint(Path(segmented["run"]) / "checkpoints" / "best.ckpt"))
    classes, labels = [], []
    for index in range(40, 50):
        picture = scene(0, index, (32, 32))
        image = torch.from_numpy(picture.image).permute(2, 0, 1)[None]
        with torch.inference_mode():
            classes.append(net((image / 255 - 0.5) / 0.25).argmax(dim=1)[0].numpy())
        labels.append(picture.semantic())
    run = Path(segmented["run"])
    shown = sorted(read_json(run / "evaluation" / "test.json")["segmented"], key=lambda entry: entry["index"])
    written = np.stack([np.array(Image.open(run / "evaluation" / entry["prediction"])) for entry in shown])
    # One image at a time rounds otherwise than a batch: where two classes tie, pixels may change.
    assert (written == np.stack(classes)).mean() > 0.99
    expected = reference(written, np.stack(labels).astype(np.int64), 5, IGNORE_INDEX)
    found = {name.removeprefix("test/"): value for name, value in segmented["test"].items() if name != "test/loss"}
    assert found == pytest.approx(expected, abs=1e-6)
    assert segmented["best"]["metric"] == "val/mean_iou"


def test_an_evaluation_says_what_became_of_each_class_and_of_the_worst_images(segmented: dict[str, Any]) -> None:
    run = Path(segmented["run"])
    result = read_json(run / "evaluation" / "test.json")
    assert result["protocol"] == {"name": "whole_image"}
    assert [row["class"] for row in result["per_class_iou"]] == ["background", "circle", "square", "triangle", "star"]
    counts = np.array(result["pixel_confusion_matrix"])
    union = counts.sum(0) + counts.sum(1) - np.diag(counts)
    for row, hits, total in zip(result["per_class_iou"], np.diag(counts), union, strict=True):
        assert row["iou"] == pytest.approx(hits / total) if total else row["iou"] is None
    assert len(result["worst"]) == 10
    assert [shown["index"] for shown in result["segmented"]] == list(range(10))
    scores = [shown["mean_iou"] for shown in result["worst"]]
    assert scores == sorted(scores)
    for shown in result["segmented"]:
        mask = Image.open(run / "evaluation" / shown["prediction"])
        assert (mask.mode, mask.size) == ("P", (32, 32))
        with Image.open(run / "evaluation" / shown["label_overlay"]) as overlay:
            pixels = np.array(overlay)
        label = scene(0, 40 + shown["index"], (32, 32)).semantic()
        assert not np.array_equal(pixels, scene(0, 40 + shown["index"], (32, 32)).image)
        assert np.array_equal(pixels[label == 0], scene(0, 40 + shown["index"], (32, 32)).image[label == 0])


def test_evaluate_repeats_what_training_reported(segmented: dict[str, Any], tmp_path: Path) -> None:
    again = evaluated(f"run={segmented['run']}", f"output={tmp_path}")
    assert again["metrics"] == pytest.approx(segmented["test"], abs=1e-6)
    assert (again["num_samples"], again["protocol"]) == (10, "whole_image")
    views = evaluated(f"run={segmented['run']}", f"output={tmp_path}", "protocol=multi_scale_flip")
    assert views["evaluation"].endswith("test-multi_scale_flip.json")
    assert views["metrics"]["test/loss"] != again["metrics"]["test/loss"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["protocol=overlap_tile"], r"protocol\.views\.tile: expected null, or a network without padding"),
        (["protocol=ten_crop"], r"protocol: protocol\.views\.resize asks for data\.resize"),
        (["protocol=crops_144"], "protocol=crops_144: it is not for segmentation"),
        (["data=fashion_mnist_sample"], "data=fashion_mnist_sample is for classification, model=unet_same for seg"),
    ],
)
def test_what_does_not_fit_is_refused(
    overrides: list[str], message: str, segmented: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        evaluated(f"run={segmented['run']}", f"output={tmp_path}", *overrides)


def test_an_evaluation_says_what_its_masks_lack(
    segmented: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks_of(tmp_path, {"train": [[0, 1]] * 4, "val": [[0, 255]] * 2}, ("background", *CLASSES))
    overrides = ["data=mask_folders", f"data.root={tmp_path}", f"output={tmp_path / 'out'}", "data.image_size=32"]
    evaluated(f"run={segmented['run']}", *overrides)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("convatlas: warning: ")]
    assert len(warnings) == 1
    assert "data=mask_folders: test: only background occurs in the masks, and 50.0 % of the" in warnings[0]


def test_an_ensemble_is_refused(segmented: dict[str, Any]) -> None:
    run = segmented["run"]
    with pytest.raises(UserError, match="an ensemble is of classification networks"):
        evaluated(f"run=[{run},{run}]")


def test_predict_writes_masks_of_images_of_any_size(segmented: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, size in enumerate(((40, 50), (33, 37))):
        Image.fromarray(scene(9, number, size).image).save(tmp_path / "photos" / f"{number}.png")
    config = compose(
        "predict",
        [f"checkpoint={segmented['run']}", f"images={tmp_path}/photos", f"output={tmp_path}/out"],
    )
    result = predict(config)
    rows = list(csv.DictReader(Path(result["csv"]).read_text(encoding="utf-8").splitlines()))
    assert [Path(row["path"]).name for row in rows] == ["0.png", "1.png"]
    for row, size in zip(rows, ((50, 40), (37, 33)), strict=True):
        with Image.open(row["mask"]) as mask:
            assert (mask.mode, mask.size) == ("P", size)
            assert max(np.unique(np.array(mask))) < 5
    shares = [item["probability"] for item in result["predictions"][0]["top"]]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    page = Path(result["page"]).read_text(encoding="utf-8")
    assert "the classes that cover most of each" in page
    assert page.count("data:image/png") == 2


def test_the_report_shows_classes_and_overlays(segmented: dict[str, Any], tmp_path: Path) -> None:
    result = report(compose("report", [f"run={segmented['run']}", f"output={tmp_path}/report.html"]))
    page = Path(result["report"]).read_text(encoding="utf-8")
    for text in ("Intersection over union of each class", "Worst images", "Test mean IoU", "triangle"):
        assert text in page
    assert page.count('alt="what the network said"') == 10 + 10
    assert '<div class="absent">' not in page


def test_check_and_runs_know_segmentation(segmented: dict[str, Any], convatlas: Command) -> None:
    found = check(compose("check", [*SMALL, f"run.root={Path(segmented['run']).parent}"]))
    assert found["run"].endswith("(finished)")
    assert found["batch"].startswith("(6, 3, 32, 32) forward and backward")
    listed = convatlas("runs", f"root={Path(segmented['run']).parent}")
    assert "val/mean_iou" in listed.stdout
    assert "test/mean_iou" in listed.stdout


def test_a_trained_classifier_becomes_the_backbone_and_the_run_another(trained: dict[str, Any], tmp_path: Path) -> None:
    """The quickstart's ResNet-20, which has seen clothes in grey, starts an FCN."""
    weights = f"{trained['run']}/checkpoints/best.ckpt"
    fcn = [
        "data=shapes_masks",
        "data.in_channels=1",
        "data.mean=[0.5]",
        "data.std=[0.25]",
        "model=fcn_resnet50",
        "~model.net.backbone",
        "+model.net.backbone={_target_: convatlas.models.classification.resnet.CifarResNet, depth: 20, in_channels: 1}",
        "data.dataset.train=40",
        "data.dataset.test=10",
        f"run.root={tmp_path}",
    ]
    without, carried = (check(compose("check", [*fcn, *more])) for more in ([], [f"model.backbone.weights={weights}"]))
    assert "weights" not in without
    assert carried["weights"].endswith("best.ckpt: 114 tensors loaded; new: aux_classifier, classifier; unused: fc")
    assert without["run"] != carried["run"]
    with pytest.raises(Exception, match=r"both start the backbone; expected one"):
        check(compose("check", [*fcn, f"model.weights={weights}", f"model.backbone.weights={weights}"]))


@pytest.mark.parametrize("verb", ["data show", "data bench", "data verify"])
def test_verbs_about_classes_say_so(verb: str, convatlas: Command) -> None:
    done = convatlas(*verb.split(), "data=shapes_masks")
    assert done.returncode == 2
    assert done.stderr.startswith("convatlas: error: data=shapes_masks")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda voc: replace_mask(voc, "2012_000003", Image.new("L", (40, 31))), "its mask 31 x 40"),
        (lambda voc: replace_mask(voc, "2012_000003", Image.new("L", (40, 32), 77)), "holds class 77"),
        (lambda voc: (voc / "SegmentationClass" / "2012_000003.png").unlink(), "2012_000003.png is missing"),
    ],
)
def test_bad_masks_end_a_run_by_their_name(spoil: Any, message: str, tmp_path: Path, convatlas: Command) -> None:
    voc = write_voc_of_shapes(tmp_path / "voc")
    spoil(voc)
    done = convatlas("train", *SMALL[:4], *on_voc(voc))
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_images_of_void_alone_are_trained_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc = write_voc_of_shapes(tmp_path / "voc")
    data = build(compose("train", [*SMALL[:4], *on_voc(voc)]).data)
    labelled = Path(data.path("train", 0)).stem
    for name in (voc / "ImageSets" / "Segmentation" / "train.txt").read_text(encoding="utf-8").split():
        if name != labelled:
            replace_mask(voc, name, Image.new("L", (40, 32), IGNORE_INDEX))
    result = train(compose("train", [*SMALL[:4], *on_voc(voc), f"run.root={tmp_path}/runs"]))
    assert result["state"] == "finished"
    assert re.search(
        r"convatlas: warning: data=voc_masks_folder: train: 9\d\.\d % of the pixels are void .*data\.dataset\.values",
        capsys.readouterr().err,
    )
    weights = read_run_checkpoint(Path(result["run"]) / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(value.isfinite().all() for name, value in weights.items() if name.startswith("net."))
