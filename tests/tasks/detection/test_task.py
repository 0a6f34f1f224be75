"""A detector's training steps and evaluations, on scenes of shapes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from convatlas.config.composition import check_config, compose
from convatlas.data.detection.module import DetectionDataModule
from convatlas.data.sources.shapes_on_disk import write_coco
from convatlas.errors import UserError
from convatlas.models.detection.detector import in_stored_image
from convatlas.tasks.detection.task import DetectionTask
from tests.data.detection.test_objects_on_disk import edit

TINY = [
    "experiment=quickstart_detection",
    "model.net.channels=16",
    "model.net.head_width=32",
    "model.net.mask_channels=16",
    "data.dataset.size=[48,64]",
    "data.image_size=48",
    "data.dataset.train=12",
    "data.dataset.test=5",
    "data.global_batch_size=4",
    "data.val_fraction=0.3",
    "trainer.log_every_n_steps=1",
]
"""Overrides that make a run of seconds."""


def build(*overrides: str) -> tuple[DetectionTask, DetectionDataModule]:
    config = compose("train", [*TINY, *overrides])
    check_config(config, {})
    pl.seed_everything(0, verbose=False)
    task = instantiate(config.model, optimizer=instantiate(config.optimizer), schedule=instantiate(config.schedule))
    return task, instantiate(config.data)


def trainer(**arguments: Any) -> pl.Trainer:
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    settings |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
    return pl.Trainer(**{**settings, "max_epochs": 1, "log_every_n_steps": 1, **arguments})


def test_the_losses_are_logged_one_by_one_and_add_up() -> None:
    task, data = build()
    fitted = trainer(limit_train_batches=2)
    fitted.fit(task, datamodule=data)
    metrics = {name: float(value) for name, value in fitted.callback_metrics.items()}
    parts = ("classifier", "box_reg", "objectness", "rpn_box_reg", "mask")
    assert metrics["train/loss"] == pytest.approx(sum(metrics[f"train/loss_{part}"] for part in parts), rel=1e-5)
    assert {"val/box_map", "val/box_map_50", "val/box_map_75", "val/mask_map", "val/mask_map_50"} <= metrics.keys()
    assert metrics["train/learning_rate"] > 0


def test_a_faster_rcnn_learns_boxes_alone() -> None:
    config = compose("train", ["model=faster_rcnn_resnet50_fpn", "model.net.backbone.depth=18", "data=shapes_objects"])
    task: DetectionTask = instantiate(config.model)
    assert not task.net.has_masks
    batch = next(iter(build()[1].train_dataloader()))
    names = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert task.train().output(batch._replace(images=batch.images / 255)).keys() == names


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    task, data = build()
    before = {name: parameter.clone() for name, parameter in task.net.named_parameters()}
    original = data.on_after_batch_transfer
    data.on_after_batch_transfer = lambda batch, dataloader_idx: original(  # type: ignore[method-assign]
        batch, dataloader_idx
    )._replace(images=torch.full_like(batch.images, torch.nan, dtype=torch.float32))
    with pytest.raises(
        UserError, match=r"train/loss is nan at step 0 \(loss_classifier .*lower optimizer\.learning_rate"
    ):
        trainer().fit(task, datamodule=data)
    assert all(torch.equal(value, before[name]) for name, value in task.net.named_parameters())


def test_images_without_objects_and_boxes_without_area_are_trained_through(tmp_path: Path) -> None:
    """Every second image has none, and one box is a line: the weights stay finite."""
    write_coco(tmp_path, {"train2017": 12, "val2017": 3}, size=(48, 64))
    edit(tmp_path, lambda content: content["annotations"][0].update(bbox=[3, 3, 0, 10]))

    def empty_every_second(content: dict[str, Any]) -> None:
        content["annotations"] = [item for item in content["annotations"] if item["image_id"] % 2]

    edit(tmp_path, empty_every_second)
    config = compose(
        "train", [*TINY[:4], "data=coco", "data.image_size=48", f"data.root={tmp_path}", "data.num_classes=4"]
    )
    config.data.global_batch_size, config.data.val_fraction = 2, 0.2
    task: DetectionTask = instantiate(
        config.model, optimizer=instantiate(config.optimizer), schedule=instantiate(config.schedule)
    )
    data: DetectionDataModule = instantiate(config.data)
    trainer().fit(task, datamodule=data)
    assert all(value.isfinite().all() for value in task.net.state_dict().values())


def test_masks_are_asked_of_the_data_that_a_mask_rcnn_learns_from() -> None:
    task, data = build("data.dataset.masks=false")
    with pytest.raises(
        UserError, match=r"data=shapes_objects has no masks, and model=mask_rcnn_resnet18_fpn learns them"
    ):
        task.check_data(data)
    classes = instantiate(compose("train").data)
    with pytest.raises(UserError, match="data=fashion_mnist_sample is for classification, model=mask_rcnn"):
        task.check_data(classes)


def test_a_trained_classifier_starts_the_backbone_and_says_so(tmp_path: Path) -> None:
    classifier = instantiate(compose("train", ["model=resnet18", "data=cifar10"]).model.net, stem="imagenet")
    torch.save(
        {"state_dict": {f"net.{name}": value for name, value in classifier.state_dict().items()}}, tmp_path / "w"
    )
    task, _ = build(f"model.backbone.weights={tmp_path / 'w'}")
    (report,) = task.loaded
    assert str(report).endswith(
        "tensors loaded; new: backbone, rpn, roi_heads; unused: fc; "
        "the file does not say, so as configured: pool=padded"
    )
    body: Any = task.net.backbone
    assert torch.equal(body.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_detections_come_back_to_the_stored_image() -> None:
    found = {
        "boxes": torch.tensor([[10.0, 20, 30, 40]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
        "masks": torch.ones(1, 1, 28, 28),
    }
    stored = in_stored_image(found, (100, 200), (50, 400))  # type: ignore[arg-type]
    assert stored["boxes"].tolist() == [[20, 10, 60, 20]]
    mask = stored["masks"][0]
    assert mask.shape == (50, 400)
    rows, columns = np.nonzero(mask.numpy())
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [10, 20, 20, 60], atol=1)


def test_an_evaluation_keeps_what_was_found_in_every_image() -> None:
    task, data = build("model.net.regions.score=0.0")
    trainer().test(task, datamodule=data, verbose=False)
    predictions: Any = task.predictions
    assert [found.index for found in predictions.found] == list(range(5))
    assert predictions.num_samples == 5
    assert all(len(found.scores) <= 100 for found in predictions.found)
    assert all(mask["size"] == [48, 64] for found in predictions.found for mask in found.masks)
