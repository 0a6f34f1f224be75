"""Parameters, multiply-adds and receptive fields, from the papers' tables and by hand, counted by us."""

from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convatlas.analysis.layers import Analysis, analyse
from convatlas.analysis.networks import Network, described_config, described_networks, model_names
from convatlas.models.base import Architecture
from convatlas.models.classification.alexnet import AlexNet, AlexNetTorchvision
from convatlas.models.classification.classifier import Classifier
from convatlas.models.classification.cuda_convnet import CudaConvNet
from convatlas.models.classification.googlenet import GoogLeNet, GoogLeNetTorchvision
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.classification.vgg import VGG

Depth = Literal[18, 34, 50, 101, 152]
Configuration = Literal["A", "A-LRN", "B", "C", "D", "E"]


def counts(net: Classifier, side: int = 224) -> tuple[int, int]:
    """Parameters and multiply-adds at inference."""
    analysis = analyse(net, side)
    return analysis.parameters, analysis.multiply_adds


@cache
def described(name: str) -> tuple[Network, Analysis]:
    (network,) = described_networks(described_config("describe", [f"model={name}"]))
    return network, analyse(network.net, network.image_size)


def all_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def operations(net: nn.Module, side: int) -> int:
    """What torch counts, two operations a multiply-add; nothing is computed on the meta device."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, side, side))
    total: int = counter.get_total_flops()
    return total


def on_meta(build: Callable[[], Classifier]) -> Classifier:
    with torch.device("meta"):
        return build().eval()


@pytest.mark.parametrize(
    ("model", "expected_parameters", "expected_multiply_adds"),
    [
        (AlexNet, 60_965_224, 724_406_816),
        (AlexNetTorchvision, 61_100_840, 714_188_480),
        (lambda: AlexNet(groups=1), 62_378_344, 1_135_256_096),
    ],
)
def test_alexnet(model: Callable[[], Classifier], expected_parameters: int, expected_multiply_adds: int) -> None:
    net = on_meta(model)
    assert counts(net) == (expected_parameters, expected_multiply_adds)


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
    assert counts(net) == (expected_parameters, expected_multiply_adds)
    if with_batch_norm is not None:
        net = on_meta(lambda: VGG(configuration=configuration, batch_norm=True))
        assert counts(net) == (with_batch_norm, expected_multiply_adds)


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def test_vgg_b_with_five_5x5_layers() -> None:
    """VGG, section 4.1: fewer layers, more parameters."""
    stacks, single = (on_meta(partial(VGG, configuration="B", stacked=stacked)) for stacked in (True, False))
    assert [sum(map(all_parameters, convolutions(net))) for net in (stacks, single)] == [9_404_992, 10_860_672]
    assert [len(convolutions(net)) for net in (stacks, single)] == [10, 5]


def test_one_7x7_layer_has_81_percent_more_weights_than_three_of_3x3() -> None:
    """VGG, section 2.3: 49 C² against 27 C²; the last stage of D has C = 512 throughout."""
    stacks, single = (on_meta(partial(VGG, configuration="D", stacked=stacked)) for stacked in (True, False))
    assert sum(layer.weight.numel() for layer in convolutions(stacks)[-3:]) == 27 * 512**2
    assert convolutions(single)[-1].weight.numel() == 49 * 512**2


@pytest.mark.parametrize(
    ("model", "inference", "training", "expected_multiply_adds"),
    [
        (GoogLeNet, 6_998_552, 13_378_280, 1_582_671_872),
        (lambda: GoogLeNet(batch_norm=True), 7_005_832, None, 1_582_671_872),
        (GoogLeNetTorchvision, 6_624_904, 13_004_888, 1_498_376_192),
    ],
)
def test_googlenet(
    model: Callable[[], Classifier], inference: int, training: int | None, expected_multiply_adds: int
) -> None:
    net = on_meta(model)
    assert counts(net) == (inference, expected_multiply_adds)
    if training is not None:
        assert all_parameters(net) == training == inference + analyse(net, 224).auxiliary_parameters


def test_googlenet_in_training_computes_both_heads() -> None:
    net = on_meta(GoogLeNet).train()
    analysis = analyse(net, 224)
    assert net.training
    assert analysis.multiply_adds + analysis.auxiliary_multiply_adds == 1_591_044_096
    assert operations(net, 224) == 2 * 1_591_044_096
    for head, channels, parameters in (("aux1", 512, 3_188_840), ("aux2", 528, 3_190_888)):
        layers = [layer for layer in analysis.auxiliary if layer.name.startswith(f"{head}.")]
        assert sum(layer.parameters for layer in layers) == all_parameters(net.get_submodule(head)) == parameters
        pool, reduction, *linear = layers
        assert (pool.kernel, pool.stride, pool.output_shape) == (5, 3, (channels, 4, 4))  # section 5
        assert (reduction.kernel, reduction.output_shape) == (1, (128, 4, 4))
        assert [layer.output_shape for layer in linear] == [(1024,), (1000,)]


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
    assert counts(net) == (expected_parameters, expected_multiply_adds)
    if shortcut == "A" and depth < 50:  # the plain nets of the paper
        plain = on_meta(lambda: ResNet(depth=depth, residual=False))
        assert counts(plain) == (expected_parameters, expected_multiply_adds)


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
    assert counts(on_meta(lambda: ResNet(depth=depth, stride_in="3x3")))[1] == expected


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
    assert counts(net, 32) == (option_a, expected_multiply_adds)
    assert counts(on_meta(lambda: CifarResNet(depth=depth, residual=False)), 32) == (option_a, expected_multiply_adds)
    assert all_parameters(on_meta(lambda: CifarResNet(depth=depth, shortcut="B"))) == option_b


def test_cifar_resnet_1202() -> None:
    assert counts(on_meta(lambda: CifarResNet(depth=1202)), 32) == (19_421_274, 2_829_238_912)


def test_cuda_convnet() -> None:
    """By hand: 5x5 kernels with biases on sides of 32, 16 and 8, and a linear layer that reads 4x4."""
    parameters = (75 + 1) * 32 + (800 + 1) * 32 + (800 + 1) * 64 + (1024 + 1) * 10
    multiply_adds = 75 * 32 * 32**2 + 800 * 32 * 16**2 + 800 * 64 * 8**2 + 1024 * 10
    for activation in ("relu", "tanh"):
        net = on_meta(lambda activation=activation: CudaConvNet(activation=activation))  # type: ignore[misc]
        assert counts(net, 32) == (parameters, multiply_adds) == (89_578, 12_298_240)


@pytest.mark.parametrize("name", model_names())
def test_our_counts_agree_with_torchs(name: str) -> None:
    network, analysis = described(name)
    assert 2 * analysis.multiply_adds == operations(network.net.eval(), network.image_size)
    assert analysis.parameters + analysis.auxiliary_parameters == all_parameters(network.net)


ALEXNET = {
    "features.0": (34_944, 105_415_200),
    "features.4": (307_456, 223_948_800),
    "features.8": (885_120, 149_520_384),
    "features.10": (663_936, 112_140_288),
    "features.12": (442_624, 74_760_192),
    "classifier.0": (37_752_832, 37_748_736),
    "classifier.3": (16_781_312, 16_777_216),
    "classifier.6": (4_097_000, 4_096_000),
}


def test_alexnet_layer_by_layer() -> None:
    layers = {layer.name: layer for layer in analyse(on_meta(AlexNet), 224).layers}
    assert {name: (layers[name].parameters, layers[name].multiply_adds) for name in ALEXNET} == ALEXNET
    assert layers["features.0"].output_shape == (96, 55, 55)


@pytest.mark.parametrize(
    ("module", "weights", "mega_multiply_adds"),
    [
        ("3a", 163_328, 128.05),
        ("3b", 388_096, 304.27),
        ("4a", 375_552, 73.61),
        ("4b", 448_512, 87.91),
        ("4c", 509_440, 99.85),
        ("4d", 604_672, 118.52),
        ("4e", 867_328, 170.00),
        ("5a", 1_042_432, 51.08),
        ("5b", 1_442_816, 70.70),
    ],
)
def test_googlenet_module_by_module(module: str, weights: int, mega_multiply_adds: float) -> None:
    layers = [x for x in analyse(on_meta(GoogLeNet), 224).layers if x.name.startswith(f"inception{module}.")]
    biases = sum(layer.output_shape[0] for layer in layers if layer.kind == "convolution")
    assert sum(layer.parameters for layer in layers) - biases == weights
    assert sum(layer.multiply_adds for layer in layers) / 1e6 == pytest.approx(mega_multiply_adds, abs=0.005)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alexnet", 355),
        ("alexnet_torchvision", 355),
        ("vgg11", 342),
        ("vgg11_lrn", 342),
        ("vgg13", 348),
        ("vgg16", 404),
        ("vgg16_bn", 404),
        ("vgg19", 460),
        ("googlenet", 715),
        ("resnet18", 435),
        ("resnet34", 899),
        ("plain18", 435),
        ("plain34", 899),
        ("resnet50", 483),
        ("resnet101", 1027),
        ("resnet152", 1507),
        ("resnet50_v15", 427),
        ("resnet101_v15", 971),
        ("resnet152_v15", 1451),
        ("resnet20_cifar", 81),
        ("resnet32_cifar", 137),
        ("resnet44_cifar", 193),
        ("resnet56_cifar", 249),
        ("resnet110_cifar", 501),
        ("resnet1202_cifar", 5597),
        ("plain110_cifar", 501),
        ("cuda_convnet_cifar", 67),
    ],
)
def test_receptive_fields(name: str, expected: int) -> None:
    assert described(name)[1].receptive_field == expected


def fields(net: Architecture, kind: str) -> list[int]:
    return [layer.receptive_field for layer in analyse(net, 224).layers if layer.kind == kind]


def test_receptive_fields_layer_by_layer() -> None:
    alexnet = on_meta(AlexNet)
    assert fields(alexnet, "convolution") == [11, 51, 99, 131, 163]
    assert fields(alexnet, "max pool") == [19, 67, 195]
    assert analyse(alexnet, 224).layers[-1].jump == 32
    vgg16 = on_meta(lambda: VGG(configuration="D"))
    assert fields(vgg16, "max pool") == [6, 16, 44, 100, 212]
    assert fields(vgg16, "convolution")[-1] == 196
    last_pools = [fields(described(name)[0].net, "max pool")[-1] for name in ("vgg11", "vgg13", "vgg19")]
    assert last_pools == [150, 156, 268]
    assert fields(on_meta(GoogLeNet), "average pool") == [907]


def test_receptive_field_of_googlenet_with_three_by_three() -> None:
    """torchvision's also has a last pool of 2x2, which sees 16 pixels less than the paper's 3x3."""
    net = on_meta(GoogLeNetTorchvision)
    assert analyse(net, 224).receptive_field == 379
    net.maxpool4 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    assert analyse(net, 224).receptive_field == 395


def test_dilation_changes_the_jump_and_not_the_field() -> None:
    with torch.device("meta"):
        nets = [ResNet(depth=50, stride_in="1x1", output_stride=8), ResNet(depth=50, stride_in="3x3", output_stride=8)]
    for net, field in zip(nets, (483, 427), strict=True):
        analysis = analyse(net, 224)
        assert analysis.receptive_field == field
        assert [layer.jump for layer in analysis.layers if layer.kind == "add"][-1] == 8


@pytest.mark.parametrize("net", [CifarResNet(depth=14), ResNet(depth=18, stem="small")], ids=["cifar", "resnet18"])
def test_what_lies_outside_the_receptive_field_changes_nothing(net: Classifier) -> None:
    """The counted field is where a position of the last map stops depending on the image."""
    field = analyse(net, 96).receptive_field
    net.eval().double()
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.01)  # so every input in the field counts
    image = torch.rand(1, 3, 2 * field, 2 * field, dtype=torch.float64, requires_grad=True)
    features = net.forward_features(image)
    features[0, :, features.shape[2] // 2, features.shape[3] // 2].sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    reached = image.grad[0].abs().sum(dim=0).sum(dim=0).nonzero()
    assert int(reached.max() - reached.min()) + 1 == field
