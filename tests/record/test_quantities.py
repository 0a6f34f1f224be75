"""The table of quantities, and metrics as text."""

import pytest

from convatlas.record.quantities import lower_is_better, metric_label, metric_text, named_text, quantity
from convatlas.tasks.classification.task import ClassificationTask
from convatlas.tasks.detection.task import DetectionTask
from convatlas.tasks.segmentation.task import SegmentationTask


@pytest.mark.parametrize("task", [ClassificationTask, SegmentationTask, DetectionTask])
def test_the_table_knows_the_direction_that_a_task_optimizes(task: type[ClassificationTask]) -> None:
    assert quantity(task.monitor).mode == task.mode
    assert quantity(task.monitor).unit == "%"


@pytest.mark.parametrize(
    ("metric", "label", "text", "on_the_terminal"),
    [
        ("test/top1", "Test top-1", "92.31 %", "test/top1 92.31 %"),
        ("best val/top5", "Best val top-5", "92.31 %", "best val/top5 92.31 %"),
        (
            "test/frequency_weighted_iou",
            "Test frequency weighted IoU",
            "92.31 %",
            "test/frequency_weighted_iou 92.31 %",
        ),
        ("val/box_map_50", "Val box mAP 50", "92.31 %", "val/box_map_50 92.31 %"),
        ("val/mask_mar_100", "Val mask mAR 100", "92.31 %", "val/mask_mar_100 92.31 %"),
        ("train/loss", "Train loss", "0.9231", "train/loss 0.9231"),
        ("train/learning_rate", "Train learning rate", "0.9231", "train/learning_rate 0.9231"),
        ("train/images_per_second", "Train images per second", "0.9231", "train/images_per_second 0.9231"),
    ],
)
def test_metrics_as_text(metric: str, label: str, text: str, on_the_terminal: str) -> None:
    assert metric_label(metric) == label
    assert metric_text(metric, 0.9231) == text
    assert named_text(metric, 0.9231) == on_the_terminal


def test_a_number_that_is_no_fraction_is_not_printed_as_a_percentage() -> None:
    assert named_text("train/images_per_second", 1234.5) == "train/images_per_second 1234"
    assert named_text("val/loss", 2.302585) == "val/loss 2.3026"
    assert named_text("val/top1", "NaN") == "val/top1 NaN"


def test_the_direction_of_a_metric() -> None:
    assert [lower_is_better(name) for name in ("test/loss", "val/top1", "val/own_loss", "val/own")] == [True, False] * 2
