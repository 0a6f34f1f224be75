"""Output strides, and scores by position: both show the same network at more places."""

from typing import Any, Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn

from convatlas.models.classification.classifier import Classifier
from convatlas.models.classification.resnet import ResNet
from convatlas.models.classification.vgg import VGG
from tests.models.zoo import build, slow_except

Stride = Literal[8, 16]
RESNETS: dict[str, dict[str, Any]] = {
    "basic": {"depth": 18},
    "v1": {"depth": 50},
    "v1.5": {"depth": 50, "stride_in": "3x3"},
    "plain": {"depth": 34, "residual": False},
    "option A": {"depth": 34, "shortcut": "A"},
    "option C": {"depth": 18, "shortcut": "C"},
}
VGGS: dict[str, dict[str, Any]] = {
    "A": {"configuration": "A"},
    "C": {"configuration": "C"},
    "D without stacks": {"configuration": "D", "stacked": False},
    "D with BatchNorm": {"configuration": "D", "batch_norm": True},
}


def settle(net: Classifier, images: Tensor) -> None:
    """Give BatchNorm the statistics of some images, so that in evaluation signals neither grow nor fade."""
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        net.train().feature_maps(images)
    net.eval()


def close(found: Tensor, expected: Tensor) -> bool:
    """Within 1e-4 of the largest."""
    return found.shape == expected.shape and bool((found - expected).abs().max() <= 1e-4 * expected.abs().max())


def compare(strided: Classifier, dilated: Classifier, side: int, output_stride: Stride) -> None:
    images = torch.randn(2, 3, side, side)
    settle(strided, images)
    dilated.load_state_dict(strided.state_dict())
    with torch.inference_mode():
        expected, maps = strided.feature_maps(images), dilated.eval().feature_maps(images)
    assert list(maps) == list(expected)
    for name, theirs in expected.items():
        step = -(-maps[name].shape[-1] // theirs.shape[-1])  # how much finer the dilated network's grid is
        assert theirs.std() > 0
        assert close(maps[name][:, :, ::step, ::step], theirs), name
    last = list(maps)[-1]
    assert maps[last].shape[-2:] == (-(-side // output_stride),) * 2
    assert dilated.dilation == 32 // output_stride == -(-maps[last].shape[-1] // expected[last].shape[-1])


@pytest.mark.parametrize("side", [pytest.param(96, marks=pytest.mark.slow), 101])
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("variant", RESNETS)
def test_a_dilated_resnet_subsampled_is_the_strided_one(variant: str, output_stride: Stride, side: int) -> None:
    torch.manual_seed(0)
    arguments = RESNETS[variant] | {"num_classes": 10}
    compare(ResNet(**arguments), ResNet(**arguments, output_stride=output_stride), side, output_stride)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("variant", slow_except(["A"], list(VGGS)))
def test_a_dilated_vgg_subsampled_is_the_strided_one(variant: str, output_stride: Stride) -> None:
    torch.manual_seed(0)
    arguments = VGGS[variant] | {"num_classes": 10, "stem": "small"}  # the stem changes fc6 alone
    compare(VGG(**arguments), VGG(**arguments, output_stride=output_stride), 96, output_stride)


def test_dilation_is_torchvision_s() -> None:
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(num_classes=10, replace_stride_with_dilation=[False, True, True])
    net = ResNet(depth=50, stride_in="3x3", output_stride=8, num_classes=10)
    net.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        for training in (True, False):  # training leaves the same statistics to both
            expected = reference.train(training)(images)
            assert expected.std() > 0
            assert torch.equal(net.train(training)(images), expected)


@pytest.mark.parametrize(
    "config", ["googlenet", "googlenet_bn", "googlenet_torchvision", "resnet18", "resnet50", "plain18"]
)
@pytest.mark.parametrize("side", [pytest.param(96, marks=pytest.mark.slow), 135])
def test_scores_by_position_average_to_the_output(config: str, side: int) -> None:
    torch.manual_seed(0)
    net = build(config, stem="imagenet")
    images = torch.randn(2, 3, side, side)
    settle(net, images)
    with torch.inference_mode():
        scores, logits = net.score_map(images), net(images)
        features = net.forward_features(images)
    assert scores.shape[-2:] == features.shape[-2:]
    assert min(scores.shape[-2:]) > 1
    assert logits.std() > 0
    assert close(scores.mean((2, 3)), logits)


@pytest.mark.parametrize(
    ("config", "reads", "output_stride"),
    [
        ("alexnet", 6, 32),
        ("alexnet_torchvision", 6, 32),
        pytest.param("vgg11", 7, 32, marks=pytest.mark.slow),
        pytest.param("vgg11_bn", 7, 16, marks=pytest.mark.slow),
    ],
)
def test_scores_by_position_are_the_classifier_of_each_window(config: str, reads: int, output_stride: int) -> None:
    """fc6 reads one window of the last map after the other; where that map is dilated, windows skip positions."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"output_stride": output_stride} if output_stride != 32 else {}
    net = build(config, stem="imagenet", **arguments)
    images = torch.randn(1, 3, 288, 256)
    settle(net, images)
    reach = (reads - 1) * net.dilation + 1
    with torch.inference_mode():
        scores, features = net.score_map(images), net.forward_features(images)
        rows, columns = features.shape[2] - reach + 1, features.shape[3] - reach + 1
        assert scores.shape == (1, 10, rows, columns)
        assert rows > columns > 1
        classifier = net.get_submodule("classifier")
        for row in range(rows):
            for column in range(columns):
                window = features[:, :, row : row + reach : net.dilation, column : column + reach : net.dilation]
                expected = classifier(window.flatten(1))
                assert expected.std() > 0
                assert close(scores[:, :, row, column], expected), (row, column)


@pytest.mark.parametrize(
    "config", slow_except(["alexnet", "vgg11"], ["alexnet", "alexnet_torchvision", "vgg11", "vgg16_bn"])
)
def test_one_score_at_the_paper_s_size(config: str) -> None:
    torch.manual_seed(0)
    net = build(config, stem="imagenet").eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        scores, logits = net.score_map(images), net(images)
    assert scores.shape == (1, 10, 1, 1)
    assert logits.std() > 0
    assert close(scores.flatten(1), logits)
