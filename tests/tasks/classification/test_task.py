import pytest
import torch
from timm.loss import BinaryCrossEntropy
from torch.nn import functional as F

from convatlas.data.batch import Batch
from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet
from convatlas.models.outputs import ClassifierOutput
from convatlas.tasks.classification.predictions import Predictions
from convatlas.tasks.classification.task import ClassificationTask


def task(**arguments: object) -> ClassificationTask:
    torch.manual_seed(0)
    net = CifarResNet(depth=8, num_classes=10, in_channels=1)
    return ClassificationTask(name="resnet8_cifar", net=net, **arguments)  # type: ignore[arg-type]


def batch_of(labels: torch.Tensor) -> Batch:
    return Batch(torch.empty(len(labels), 1), labels, torch.arange(len(labels)))


def test_the_loss_of_mixed_images_is_that_of_soft_labels() -> None:
    labels, mixed, weights = torch.tensor([1, 2]), torch.tensor([2, 1]), torch.tensor([0.75, 0.4])
    logits = torch.randn(2, 10)
    batch = batch_of(labels)._replace(mixed_labels=mixed, label_weights=weights)
    soft = weights[:, None] * F.one_hot(labels, 10) + (1 - weights[:, None]) * F.one_hot(mixed, 10)
    expected = F.cross_entropy(logits, soft, label_smoothing=0.1)
    assert task(label_smoothing=0.1).loss(logits, batch).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_timm_s(smoothing: float) -> None:
    labels, logits = torch.tensor([1, 2, 0]), torch.randn(3, 10)
    expected = BinaryCrossEntropy(smoothing=smoothing)(logits, labels)
    found = task(loss="binary_cross_entropy", label_smoothing=smoothing).loss(logits, batch_of(labels))
    assert found.item() == pytest.approx(expected.item())


def test_for_binary_cross_entropy_both_classes_of_a_mixed_image_are_in_it() -> None:
    labels, mixed, weights = torch.tensor([1, 2, 3]), torch.tensor([2, 1, 3]), torch.tensor([0.7, 0.1, 0.5])
    logits = torch.randn(3, 10)
    batch = batch_of(labels)._replace(mixed_labels=mixed, label_weights=weights)
    soft = weights[:, None] * F.one_hot(labels, 10) + (1 - weights[:, None]) * F.one_hot(mixed, 10)
    expected = BinaryCrossEntropy(smoothing=0.0, target_threshold=0.2)(logits, soft)
    assert task(loss="binary_cross_entropy").loss(logits, batch).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_auxiliary_heads_count_with_their_weight(loss: str) -> None:
    batch = batch_of(torch.tensor([1, 2]))
    main, first, second = torch.randn(3, 2, 10)
    one = task(auxiliary_weight=0.3, loss=loss)
    expected = one.loss(main, batch) + 0.3 * (one.loss(first, batch) + one.loss(second, batch))
    assert one.loss(ClassifierOutput(main, (first, second)), batch).item() == pytest.approx(expected.item())


def test_channels_last_is_the_same_network() -> None:
    images = torch.randn(4, 1, 32, 32)
    plain, other = task().eval(), task(channels_last=True).eval()
    assert other.net.get_parameter("layer1.0.conv1.weight").is_contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(other(images), plain(images), rtol=1e-4, atol=1e-4)


def test_a_task_that_is_only_evaluated_cannot_be_trained() -> None:
    with pytest.raises(ValueError, match="cannot be trained"):
        task().configure_optimizers()


def test_predictions_come_in_the_order_of_the_split() -> None:
    predictions = Predictions("test", 3)
    logits = torch.tensor([[5.0, 0, 0], [0, 1, 0], [0, 0, 9]])
    labels = torch.tensor([0, 0, 1])
    predictions.update(logits[:2], Batch(torch.empty(2, 1), labels[:2], torch.tensor([2, 0])))
    predictions.update(logits[2:], Batch(torch.empty(1, 1), labels[2:], torch.tensor([1])))
    predictions.gather()
    assert predictions.indices.tolist() == [0, 1, 2]
    assert predictions.classes.tolist() == [1, 2, 0]
    assert predictions.confusion_matrix().tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert predictions.mistakes(5) == [1, 0], "the most confident first"
    assert predictions.mistakes(1) == [1]
    assert predictions.sample(2) == [0, 1]
    assert predictions.label_confidences[2].item() == pytest.approx(predictions.confidences[2].item())


def test_predictions_of_nothing_are_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.on_error=skip: none of the test images can be decoded"):
        Predictions("test", 3).gather()
