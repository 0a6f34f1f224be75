"""Weights start from the distributions that the docstrings promise, layer by layer, within sampling error."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from convatlas.models.classification.classifier import Classifier
from convatlas.models.classification.resnet import CifarResNet, ResNet
from tests.models.zoo import build

FEWEST = 1000
"""Weights of a layer, below which its moments say too little."""
Kind = Literal["normal", "uniform"]
LAYERS = (nn.Conv2d, nn.Linear)


def promised(name: str, layer: nn.Conv2d | nn.Linear) -> tuple[Kind, float]:
    """The distribution of a layer's weights and its variance."""
    field = layer.weight[0, 0].numel()
    fan_in, fan_out = layer.weight[0].numel(), layer.weight.shape[0] * field
    linear = isinstance(layer, nn.Linear)
    if name == "alexnet_torchvision" or (linear and name.startswith(("resnet", "plain"))):
        return "uniform", 1 / (3 * fan_in)  # torch's default
    if name == "cuda_convnet_cifar":
        return "normal", 1 / fan_in
    if linear or name in ("alexnet", "googlenet_torchvision"):
        return "normal", 0.01**2
    return "normal", 2 / (fan_out if name.startswith(("resnet", "plain")) else fan_in)


def weighted(net: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    return {name: layer for name, layer in net.named_modules() if isinstance(layer, LAYERS)}


def biases(net: Classifier) -> dict[str, Tensor]:
    return {name: layer.bias for name, layer in weighted(net).items() if layer.bias is not None}


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "alexnet_torchvision",
        "vgg16_c",
        "vgg11_bn",
        "googlenet",
        "googlenet_bn",
        "googlenet_torchvision",
        "resnet34",
        "resnet50",
        "resnet50_v15",
        "plain18",
        "resnet56_cifar",
        "plain20_cifar",
        "cuda_convnet_cifar",
    ],
)
def test_weights(name: str) -> None:
    torch.manual_seed(0)
    layers = {key: layer for key, layer in weighted(build(name)).items() if layer.weight.numel() >= FEWEST}
    assert len(layers) >= (4 if name == "cuda_convnet_cifar" else 7)
    for key, layer in layers.items():
        kind, variance = promised(name, layer)
        weights = layer.weight.detach().double().flatten() / variance**0.5
        count = weights.numel()
        assert abs(weights.mean()) < 5 / count**0.5, key
        assert abs(weights.square().mean() - 1) < 5 * (2 / count) ** 0.5, key
        kurtosis = 3 if kind == "normal" else 1.8
        assert abs(weights.pow(4).mean() - kurtosis) < 5 * (96 / count) ** 0.5, key  # 96: of z^4, if z is normal


@pytest.mark.parametrize("name", ["vgg16_c", "vgg11_bn", "googlenet", "cuda_convnet_cifar"])
def test_biases_start_at_zero(name: str) -> None:
    found = biases(build(name))
    assert found
    assert not any(bias.any() for bias in found.values())


def test_biases_of_alexnet() -> None:
    values = [torch.unique(bias).tolist() for bias in biases(build("alexnet")).values()]
    assert values == [[0], [1], [0], [1], [1], [1], [1], [0]]  # conv1 to conv5, fc6 to fc8


def test_biases_that_keep_torch_s_default() -> None:
    """Uniform within 1 / sqrt(fan-in), as torchvision leaves them."""
    for name in ("alexnet_torchvision", "resnet18", "googlenet_torchvision"):
        for key, layer in weighted(build(name, num_classes=1000)).items():
            if layer.bias is not None:
                bound = layer.weight[0].numel() ** -0.5
                assert 0.9 * bound < layer.bias.abs().max() <= bound, (name, key)


@pytest.mark.parametrize("name", ["vgg11_bn", "googlenet_bn", "googlenet_torchvision", "resnet50", "resnet20_cifar"])
def test_batch_norm_starts_as_the_identity(name: str) -> None:
    norms = [layer for layer in build(name).modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


@pytest.mark.parametrize(("depth", "last", "blocks"), [(18, "bn2", 8), (50, "bn3", 16)])
def test_zero_init_residual_zeroes_the_last_norm_of_each_block(depth: Literal[18, 50], last: str, blocks: int) -> None:
    net = ResNet(depth=depth, zero_init_residual=True, stem="small", num_classes=10)
    norms = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    zeroed = [name for name, norm in norms.items() if not norm.weight.any()]
    assert zeroed == [name for name in norms if name.endswith(last) and name.startswith("layer")]
    assert len(zeroed) == blocks
    assert all((norm.weight == 1).all() for name, norm in norms.items() if name not in zeroed)


def plain_50_without_norms() -> CifarResNet:
    """50 layers, 49 of them convolutions with a ReLU each; circular, so that borders lose nothing of the signal."""
    net = CifarResNet(depth=50, residual=False).eval()
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            net.set_submodule(name, nn.Identity())
        elif isinstance(layer, nn.Conv2d):
            layer.padding_mode = "circular"
    return net


def variances_before_relu(net: nn.Module) -> Tensor:
    """Of each convolution's output for random images, with what doubling the width takes away given back."""
    variances: list[float] = []
    given_back = 1.0

    def record(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal given_back
        assert isinstance(layer, nn.Conv2d)
        given_back *= layer.out_channels / layer.in_channels if variances else 1.0
        variances.append(out.square().mean().item() * given_back)

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(record)
    with torch.inference_mode():
        net(torch.randn(2, 3, 8, 8))
    return torch.tensor(variances)


@pytest.mark.slow
def test_he_initialisation_keeps_the_signal_through_50_layers() -> None:
    """The variance before each ReLU, in the mean over the random weights, is that of the first layer.

    At 16 to 64 channels one net's variance wanders by powers of ten in 50 layers, although it stays in the mean. Layers
    are drawn independently and with random signs, so the mean factorises: the gain of each layer is averaged over many
    nets, and the product of the averages is the variance at that depth, with a deviation of 0.2 in its logarithm.
    The fan-out keeps gradients: where the width doubles, the signal halves, by the ratio of the widths exactly.
    """
    gains = []
    for seed in range(250):
        torch.manual_seed(seed)
        variances = variances_before_relu(plain_50_without_norms())
        gains.append(variances[1:] / variances[:-1])
    relative = torch.stack(gains).mean(0).cumprod(0)
    assert relative.shape == (48,)
    assert relative.min() > 0.5
    assert relative.max() < 2
