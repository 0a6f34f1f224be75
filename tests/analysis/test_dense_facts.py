"""Parameters, multiply-adds and receptive fields of the segmentation networks: the papers', torchvision's, by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convatlas.analysis.layers import analyse
from convatlas.models.classification.resnet import ResNet
from convatlas.models.classification.vgg import VGG
from convatlas.models.segmentation.deeplab import DeepLabV3, DeepLabV3Plus, DeepLabVGG
from convatlas.models.segmentation.fcn import FCN, FCNVGG
from convatlas.models.segmentation.segmenter import Segmenter
from convatlas.models.segmentation.unet import UNet


def on_meta(build: Callable[[], Segmenter]) -> Segmenter:
    with torch.device("meta"):
        return build()


def vgg(output_stride: Any = 32) -> VGG:
    return VGG(configuration="D", output_stride=output_stride)


def resnet(depth: Any, output_stride: Any = 8) -> ResNet:
    return ResNet(depth=depth, stride_in="3x3", output_stride=output_stride)


def operations(net: nn.Module, channels: int, side: int) -> int:
    """What torch counts, two operations a multiply-add."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net(torch.empty(2, channels, side, side))
    total: int = counter.get_total_flops() // 2
    return total


@pytest.mark.parametrize(("stride", "expected"), [(32, 134_346_581), (16, 134_357_354), (8, 134_362_751)])
def test_fcn_on_vgg16_without_its_deconvolutions(stride: Any, expected: int) -> None:
    layers = analyse(on_meta(lambda: FCNVGG(backbone=vgg(), stride=stride)), 500).layers
    assert sum(layer.parameters for layer in layers if layer.kind != "transposed convolution") == expected


@pytest.mark.parametrize(
    ("kernel", "rate", "width", "expected"),
    [(7, 4, 4096, 134_346_581), (4, 4, 4096, 65_140_565), (3, 12, 1024, 20_505_429)],
)
def test_deeplab_v1(kernel: int, rate: int, width: int, expected: int) -> None:
    net = on_meta(lambda: DeepLabVGG(backbone=vgg(8), kernel=kernel, rates=[rate], width=width))
    assert analyse(net, 321).parameters == expected


@pytest.mark.parametrize(
    ("build", "side", "parameters", "multiply_adds"),
    [
        (lambda: UNet(in_channels=1, num_classes=2), 572, 31_030_658, 150_428_424_448),
        (lambda: UNet(num_classes=2, padding="same"), 256, 31_031_810, 48_171_581_440),
    ],
)
def test_unet(build: Callable[[], Segmenter], side: int, parameters: int, multiply_adds: int) -> None:
    analysis = analyse(on_meta(build), side)
    assert (analysis.parameters, analysis.multiply_adds) == (parameters, multiply_adds)


@pytest.mark.parametrize(
    ("build", "parameters", "with_head", "giga", "giga_with_head"),
    [
        (lambda: FCN(backbone=resnet(50)), 32_957_013, 35_322_218, 142.73, 152.72),
        (lambda: FCN(backbone=resnet(101)), 51_949_141, 54_314_346, None, None),
        (
            lambda: DeepLabV3(backbone=resnet(50), rates=(12, 24, 36), auxiliary=True),
            39_638_869,
            42_004_074,
            168.73,
            178.72,
        ),
        (
            lambda: DeepLabV3(backbone=resnet(101), rates=(12, 24, 36), auxiliary=True),
            58_630_997,
            60_996_202,
            None,
            None,
        ),
    ],
)
def test_torchvisions(
    build: Callable[[], Segmenter], parameters: int, with_head: int, giga: float | None, giga_with_head: float | None
) -> None:
    analysis = analyse(on_meta(build), 520)
    assert analysis.parameters == parameters
    assert analysis.parameters + analysis.auxiliary_parameters == with_head
    if giga is not None:
        assert analysis.multiply_adds / 1e9 == pytest.approx(giga, abs=0.005)
        both = analysis.multiply_adds + analysis.auxiliary_multiply_adds
        assert both / 1e9 == pytest.approx(giga_with_head, abs=0.005)


@pytest.mark.parametrize(
    "build",
    [
        lambda: FCNVGG(backbone=vgg(), stride=8),
        lambda: DeepLabVGG(backbone=vgg(8), rates=[6, 12]),
        lambda: DeepLabV3Plus(backbone=resnet(50, 16), multi_grid=(1, 2, 4)),
        lambda: UNet(in_channels=1),
    ],
)
def test_our_counts_agree_with_torchs(build: Callable[[], Segmenter]) -> None:
    net = on_meta(build)
    side = net.image_size
    analysis = analyse(net, side)
    assert 2 * analysis.multiply_adds == operations(net.eval(), net.in_channels, side)
    assert analysis.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_receptive_fields_of_the_backbones() -> None:
    """FCN, table 1: 404 pixels of fc6; LargeFOV keeps them with a ninth of the taps (DeepLab v1, section 5.2)."""
    for net, name in (
        (on_meta(lambda: FCNVGG(backbone=vgg(), stride=32)), "fc6"),
        (on_meta(lambda: DeepLabVGG(backbone=vgg(8), rates=[12])), "fc6_0"),
    ):
        layers = {layer.name: layer for layer in analyse(net, 500).layers}
        assert layers[name].receptive_field == 404
    pools = [layer.receptive_field for layer in layers.values() if layer.kind == "max pool"]
    assert pools == [6, 16, 44, 100, 212]


def test_receptive_field_of_the_whole_network() -> None:
    """What gradients reach: two scores of 32 pixels meet in a pixel of FCN-32s, U-Net's up-convolutions add nothing."""
    assert analyse(on_meta(lambda: FCNVGG(backbone=vgg(), stride=32)), 500).receptive_field == 404 + 32
    net = UNet(in_channels=1, num_classes=1, width=2, levels=3).eval()
    field = analyse(net, 140).receptive_field
    net.double()
    net.set_submodule("pool", nn.AvgPool2d(2))  # which looks at all of its pixels
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.rand(1, 1, 140, 140, dtype=torch.float64, requires_grad=True)
    out = net(image)
    sides = []
    for shift in range(4):  # the four places of a pixel under the coarsest grid
        (gradient,) = torch.autograd.grad(out[0, 0, 40 + shift, 40], image, retain_graph=True)
        reached = gradient[0, 0].abs().sum(dim=1).nonzero()
        sides.append(int(reached.max() - reached.min()) + 1)
    assert max(sides) <= field
    assert field - max(sides) <= 4  # the pools and up-convolutions of one path see the same pixels twice
