"""Images and classes that are not those of the weights that a network starts from."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from convatlas.data.class_list import ClassList
from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.tasks.classification.task import ClassificationTask
from tests.models.test_published_weights import IMAGENET, file_name, run_checkpoint, smooth_images

RESNET18 = torchvision.models.ResNet18_Weights.IMAGENET1K_V1


class Data:
    name, task_type, image_size, in_channels = "animals", "classification", 224, 3

    def __init__(self, names: tuple[str, ...], mean: Any = IMAGENET[0], std: Any = IMAGENET[1]) -> None:
        self.class_list, self.mean, self.std = ClassList(names), mean, std


def task(weights: Path, net: CifarResNet | ResNet, **arguments: Any) -> ClassificationTask:
    return ClassificationTask(name="resnet", net=net, weights=str(weights), **arguments)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is called as torchvision's weights of ResNet-18."""
    path = tmp_path_factory.mktemp("weights") / file_name("resnet18")
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def test_images_that_are_normalised_otherwise_are_said(resnet18: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = tuple(f"n{number:08d}" for number in range(1000))
    named = task(resnet18, ResNet(depth=18))
    for data in (Data(names), Data(names, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])):
        named.check_data(data)
    assert capfd.readouterr().err == ""
    named.check_data(Data(names, (0.5,) * 3, (0.5,) * 3))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(
        "torchvision's resnet18 IMAGENET1K_V1 was trained on images with data.mean=[0.485,0.456,0.406] "
        "data.std=[0.229,0.224,0.225]; here they are [0.5,0.5,0.5] and [0.5,0.5,0.5]"
    )
    ClassificationTask(name="resnet18", net=ResNet(depth=18)).check_data(Data(names, (0.5,) * 3, (0.5,) * 3))
    assert capfd.readouterr().err == ""


def test_a_run_s_own_images_are_those_of_its_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = CifarResNet(depth=8, num_classes=2).state_dict()
    torch.save(run_checkpoint(state, {"shortcut": "A"}), tmp_path / "best.ckpt")
    net = task(tmp_path / "best.ckpt", CifarResNet(depth=8, num_classes=2))
    net.check_data(Data(("cat", "dog"), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    assert capfd.readouterr().err == ""
    net.check_data(Data(("cat", "dog")))
    assert "the run resnet-data-1a2b3c4d-s0 was trained on images with" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"class 0 is dog in data=animals and cat in the weights, where dog is class 1"):
        net.check_data(Data(("dog", "cat")))
    new = task(tmp_path / "best.ckpt", CifarResNet(depth=8, num_classes=2), reset_classifier=True)
    new.check_data(Data(("dog", "cat"), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))


def test_torchvisions_classes_in_another_order_are_refused(resnet18: Path) -> None:
    classes = RESNET18.meta["categories"]
    named = task(resnet18, ResNet(depth=18))
    named.check_data(Data(tuple(classes)))
    with pytest.raises(UserError, match=r"class 0 is Afghan hound in data=animals and tench in the weights"):
        named.check_data(Data(tuple(sorted(classes))))


@pytest.mark.parametrize(("std", "warned"), [(IMAGENET[1], True), ((1 / 255,) * 3, False)])
def test_weights_for_pixels_of_0_to_255_are_recognised(
    std: tuple[float, ...], warned: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    source = CifarResNet(depth=8, num_classes=2)
    for layer in source.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    for scale in (1, 58):
        source.train()(smooth_images(scale))
        torch.save(source.state_dict(), tmp_path / "w.pth")
        net = task(tmp_path / "w.pth", CifarResNet(depth=8, num_classes=2))
        net.check_data(Data(("cat", "dog"), std=std))
        said = capfd.readouterr().err
        assert ("weights for pixels of 0 to 255 need data.std=[0.00392157," in said) == (warned and scale == 58)
