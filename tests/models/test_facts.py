"""Parameters and multiply-adds, from the papers' tables; torch's counter reports two operations a multiply-add."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convatlas.models.alexnet import AlexNet, AlexNetTorchvision
from convatlas.models.googlenet import GoogLeNet, GoogLeNetTorchvision
from convatlas.models.resnet import CifarResNet, ResNet
from convatlas.models.vgg import VGG

Depth = Literal[18, 34, 50, 101, 152]
Configuration = Literal["A", "A-LRN", "B", "C", "D", "E"]


def parameters(model: nn.Module, *, without: str = "\0") -> int:
    return sum(p.numel() for name, p in model.named_parameters() if not name.startswith(without))


def multiply_adds(model: nn.Module, side: int = 224) -> int:
    """Of one image; nothing is computed on the meta device."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, side, side))
    operations: int = counter.get_total_flops()
    return operations // 2


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build().eval()


@pytest.mark.parametrize(
    ("model", "expected_parameters", "expected_multiply_adds"),
    [(AlexNet, 60_965_224, 724_406_816), (AlexNetTorchvision, 61_100_840, 714_188_480)],
)
def test_alexnet(model: Callable[[], nn.Module], expected_parameters: int, expected_multiply_adds: int) -> None:
    net = on_meta(model)
    assert (parameters(net), multiply_adds(net)) == (expected_parameters, expected_multiply_adds)


@pytest.mark.parametrize(
    ("configuration", "expected_parameters", "with_batch_norm", "expected_multiply_adds"),
    [
        ("A", 132_863_336, 132_868_840, 7_609_090_048),
        ("A-LRN", 132_863_336, None, 7_609_090_048),
        ("B", 133_047_848, 133_053_736, 11_308_466_176),
        ("C", 133_638_952, None, 11_770_888_192),
        ("D", 138_357_544, 138_365_992, 15_470_264_320),
        ("E", 143_667_240, 143_678_248, 19_632_062_464),
    ],
)
def test_vgg(
    configuration: Configuration,
    expected_parameters: int,
    with_batch_norm: int | None,
    expected_multiply_adds: int,
) -> None:
    net = on_meta(lambda: VGG(configuration=configuration))
    assert (parameters(net), multiply_adds(net)) == (expected_parameters, expected_multiply_adds)
    if with_batch_norm is not None:
        assert parameters(on_meta(lambda: VGG(configuration=configuration, batch_norm=True))) == with_batch_norm


@pytest.mark.parametrize(
    ("model", "inference", "training", "expected_multiply_adds"),
    [
        (GoogLeNet, 6_998_552, 13_378_280, 1_582_671_872),
        (lambda: GoogLeNet(batch_norm=True), 7_005_832, None, 1_582_671_872),
        (GoogLeNetTorchvision, 6_624_904, 13_004_888, 1_498_376_192),
    ],
)
def test_googlenet(
    model: Callable[[], nn.Module], inference: int, training: int | None, expected_multiply_adds: int
) -> None:
    net = on_meta(model)
    assert (parameters(net, without="aux"), multiply_adds(net)) == (inference, expected_multiply_adds)
    if training is not None:
        assert parameters(net) == training


def test_googlenet_in_training_computes_both_heads() -> None:
    net = on_meta(GoogLeNet).train()
    assert multiply_adds(net) == 1_591_044_096
    assert parameters(net.get_submodule("aux1")) == 3_188_840
    assert parameters(net.get_submodule("aux2")) == 3_190_888


@pytest.mark.parametrize(
    ("depth", "shortcut", "expected_parameters", "expected_multiply_adds"),
    [
        (18, "A", 11_515_688, 1_794_805_760),
        (34, "A", 21_623_848, 3_644_493_824),
        (50, "A", 22_780_456, 3_498_311_680),
        (101, "A", 41_772_584, 7_210_532_864),
        (152, "A", 57_416_232, 10_922_754_048),
        (18, "B", 11_689_512, 1_814_073_344),
        (34, "B", 21_797_672, 3_663_761_408),
        (50, "B", 25_557_032, 3_857_973_248),
        (101, "B", 44_549_160, 7_570_194_432),
        (152, "B", 60_192_808, 11_282_415_616),
        (18, "C", 12_043_816, 1_878_298_624),
        (34, "C", 22_716_840, 3_830_747_136),
        (50, "C", 40_128_552, 6_324_224_000),
        (101, "C", 76_981_288, 13_530_300_416),
        (152, "C", 107_335_720, 20_736_376_832),
    ],
)
def test_resnet(
    depth: Depth, shortcut: Literal["A", "B", "C"], expected_parameters: int, expected_multiply_adds: int
) -> None:
    net = on_meta(lambda: ResNet(depth=depth, shortcut=shortcut))
    assert (parameters(net), multiply_adds(net)) == (expected_parameters, expected_multiply_adds)
    if shortcut == "A" and depth < 50:  # the plain nets of the paper
        plain = on_meta(lambda: ResNet(depth=depth, residual=False))
        assert (parameters(plain), multiply_adds(plain)) == (expected_parameters, expected_multiply_adds)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (18, 1_814_073_344),
        (34, 3_663_761_408),
        (50, 4_089_184_256),
        (101, 7_801_405_440),
        (152, 11_513_626_624),
    ],
)
def test_resnet_v15_multiply_adds(depth: Depth, expected: int) -> None:
    assert multiply_adds(on_meta(lambda: ResNet(depth=depth, stride_in="3x3"))) == expected


@pytest.mark.parametrize(
    ("depth", "option_a", "option_b", "expected_multiply_adds"),
    [
        (20, 269_722, 272_474, 40_551_040),
        (32, 464_154, 466_906, 68_862_592),
        (44, 658_586, 661_338, 97_174_144),
        (56, 853_018, 855_770, 125_485_696),
        (110, 1_727_962, 1_730_714, 252_887_680),
    ],
)
def test_cifar_resnet(depth: int, option_a: int, option_b: int, expected_multiply_adds: int) -> None:
    net = on_meta(lambda: CifarResNet(depth=depth))
    assert (parameters(net), multiply_adds(net, 32)) == (option_a, expected_multiply_adds)
    assert parameters(on_meta(lambda: CifarResNet(depth=depth, residual=False))) == option_a
    assert parameters(on_meta(lambda: CifarResNet(depth=depth, shortcut="B"))) == option_b


def test_cifar_resnet_1202_parameters() -> None:
    assert parameters(on_meta(lambda: CifarResNet(depth=1202))) == 19_421_274
