"""The loss of pixels: what counts, how much, and what never becomes a number that is none."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from convatlas.data.batch import IGNORE_INDEX, SegmentationBatch
from convatlas.data.class_list import ClassList
from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet
from convatlas.models.outputs import ClassifierOutput
from convatlas.models.segmentation.fcn import FCN
from convatlas.models.segmentation.unet import UNet
from convatlas.tasks.segmentation.predictions import SHOWN, MaskPredictions
from convatlas.tasks.segmentation.task import SegmentationTask


def unet_task(**arguments: object) -> SegmentationTask:
    return SegmentationTask(name="unet", net=UNet(width=2, levels=3, num_classes=3, **arguments))  # type: ignore[arg-type]


def batch(size: int = 48, weights: Tensor | None = None) -> SegmentationBatch:
    torch.manual_seed(0)
    labels = torch.randint(3, (2, size, size))
    labels[:, :5] = IGNORE_INDEX
    return SegmentationBatch(torch.randn(2, 3, size, size), labels, torch.arange(2), weights)


def test_the_loss_is_the_mean_over_pixels_that_are_not_void() -> None:
    given = batch()
    logits = torch.randn(2, 3, 48, 48)
    expected = F.cross_entropy(logits, given.labels, ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(unet_task(padding="same").loss(logits, given), expected)


def test_an_output_of_the_central_part_is_compared_with_the_central_labels() -> None:
    given = batch(52)
    logits = torch.randn(2, 3, 12, 12)
    expected = F.cross_entropy(logits, given.labels[:, 20:32, 20:32], ignore_index=IGNORE_INDEX)
    torch.testing.assert_close(unet_task().loss(logits, given), expected)


def test_weights_multiply_the_losses_of_their_pixels() -> None:
    weights = torch.ones(2, 48, 48)
    weights[1] = 3
    logits = torch.randn(2, 3, 48, 48)
    task = unet_task(padding="same")
    halves = [
        task.loss(logits[row : row + 1], SegmentationBatch(*(x[row : row + 1] for x in batch()[:3]))) for row in (0, 1)
    ]
    torch.testing.assert_close(task.loss(logits, batch(weights=weights)), (halves[0] + 3 * halves[1]) / 2)


def test_the_auxiliary_head_counts_by_its_weight() -> None:
    given = batch()
    task = SegmentationTask(name="fcn", net=FCN(backbone=CifarResNet(depth=8), num_classes=3), auxiliary_weight=0.25)
    logits, auxiliary = torch.randn(2, 2, 3, 48, 48)
    expected = task.loss(logits, given) + 0.25 * task.loss(auxiliary, given)
    torch.testing.assert_close(task.loss(ClassifierOutput(logits, (auxiliary,)), given), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_nothing_but_void_is_a_loss_of_zero_and_moves_no_weight(weighted: bool) -> None:
    task = unet_task(padding="same")
    given = batch()._replace(
        labels=torch.full((2, 48, 48), IGNORE_INDEX), weights=torch.ones(2, 48, 48) if weighted else None
    )
    loss = task.loss(task.net(given.images), given)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss) == 0
    assert all(value.grad is not None and not value.grad.any() for value in task.net.parameters())


def test_a_size_that_the_network_does_not_take_is_refused() -> None:
    class Data:
        name, task_type, image_size = "scans", "segmentation", 100
        in_channels, mean, std, class_list = 3, (0.5,) * 3, (0.25,) * 3, ClassList(("background", "cell"))

    unet_task(padding="same").check_data(Data())
    with pytest.raises(UserError, match=r"data\.image_size=100: expected 188 or a multiple of 16 more"):
        SegmentationTask(name="unet", net=UNet(width=2, num_classes=3)).check_data(Data())
    Data.task_type = "detection"
    with pytest.raises(UserError, match="data=scans is for detection, model=unet for segmentation"):
        unet_task().check_data(Data())


def test_predictions_keep_the_worst_images_and_a_sample() -> None:
    predictions = MaskPredictions("test", num_samples=40, num_classes=2)
    labels = torch.zeros(4, 10, dtype=torch.int64)
    for index in range(40):
        classes = labels.clone()
        classes.view(-1)[:index] = 1  # the larger the index, the worse
        predictions.update(index, classes, labels)
    predictions.update(39, labels, torch.full_like(labels, IGNORE_INDEX))  # which has no score
    predictions.gather(torch.zeros(2, 2))
    assert predictions.worst == list(range(39, 39 - SHOWN, -1))
    assert set(predictions.masks) == {*predictions.worst, *predictions.sample}
    assert predictions.sample[0] == 0
    assert len(predictions.sample) == SHOWN
    assert int(predictions.masks[30].sum()) == 30
