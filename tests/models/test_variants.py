"""What the switches of the papers' ablations change."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, cast

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from convatlas.analysis.layers import analyse
from convatlas.errors import UserError
from convatlas.models.classification.alexnet import AlexNet
from convatlas.models.classification.cuda_convnet import CudaConvNet
from convatlas.models.classification.googlenet import GoogLeNet
from convatlas.models.classification.residual_blocks import ZeroPadShortcut
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.classification.vgg import VGG
from tests.models.zoo import build


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


def test_depth_that_is_not_6n_plus_2() -> None:
    with pytest.raises(UserError, match=r"model\.net\.depth=21: expected 6n \+ 2"):
        CifarResNet(depth=21)


def test_plain_net_cannot_start_blocks_at_zero() -> None:
    with pytest.raises(UserError, match=r"model\.net\.zero_init_residual"):
        ResNet(depth=18, residual=False, zero_init_residual=True)


def test_stochastic_depth_rises_linearly_and_adds_no_names() -> None:
    net, without = ResNet(depth=50, stochastic_depth=0.32), ResNet(depth=50)
    drops = [module.p for module in net.modules() if isinstance(module, StochasticDepth)]
    assert drops == pytest.approx([0.02 * block for block in range(1, 17)])
    assert list(net.state_dict()) == list(without.state_dict())
    assert "StochasticDepth" not in kinds(without)


def test_an_image_that_drops_a_block_skips_it_and_evaluation_drops_none() -> None:
    torch.manual_seed(0)
    net = CifarResNet(depth=8, stochastic_depth=0.9)
    block, images = net.layer3[0], torch.rand(64, 32, 8, 8)
    with torch.inference_mode():
        shortcut = cast(nn.Module, block.downsample)(images)
        skipped = (block(images.clone()) == shortcut.relu()).flatten(1).all(dim=1)
        assert 40 < skipped.sum() < 64
        block.eval()
        assert not (block(images.clone()) == shortcut.relu()).flatten(1).all(dim=1).any()


def test_without_stochastic_depth_no_random_number_is_drawn() -> None:
    net = CifarResNet(depth=8, in_channels=1)
    before = torch.get_rng_state()
    net(torch.zeros(2, 1, 32, 32))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("arguments", [{"stochastic_depth": 1.0}, {"stochastic_depth": 0.1, "residual": False}])
def test_stochastic_depth_is_a_probability_and_for_residual_nets(arguments: dict[str, Any]) -> None:
    for build_net in (partial(ResNet, depth=18), partial(CifarResNet, depth=8)):
        with pytest.raises(UserError, match=r"model\.net\.stochastic_depth="):
            build_net(**arguments)


@pytest.mark.parametrize("probability", [-0.1, 1.5])
@pytest.mark.parametrize("name", ["alexnet", "alexnet_torchvision", "vgg11", "googlenet", "googlenet_torchvision"])
def test_dropout_is_a_probability(name: str, probability: float) -> None:
    keys = ["dropout", "auxiliary_dropout"] if name.startswith("googlenet") else ["dropout"]
    for key in keys:
        arguments: dict[str, Any] = {key: probability}
        with pytest.raises(InstantiationException, match=rf"model\.net\.{key}={probability}: expected a probability"):
            build(name, device="meta", **arguments)


def test_zero_padded_shortcut() -> None:
    images = torch.arange(2 * 5 * 5.0).reshape(1, 2, 5, 5)
    out = ZeroPadShortcut(stride=2, extra_channels=3)(images)
    assert out.shape == (1, 5, 3, 3)
    assert torch.equal(out[:, :2], images[:, :, ::2, ::2])
    assert not out[:, 2:].any()
    out = ZeroPadShortcut(stride=2, extra_channels=3, padding="both")(images)
    assert torch.equal(out[:, 1:3], images[:, :, ::2, ::2])
    assert not out[:, [0, 3, 4]].any()


def reference_logits(state: dict[str, Tensor], images: Tensor, pad: Callable[[int], tuple[int, int]]) -> Tensor:
    """What a CIFAR ResNet with option A computes in evaluation, from its state dict alone.

    Args:
        state: The weights.
        images: (N, 3, H, W).
        pad: Channels of zeros before and after, of the channels that are added.
    """

    def conv_bn(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, variance, weight, bias = (
            state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    x = F.relu(conv_bn(images, "conv1", "bn1"))
    for name in (name.removesuffix(".conv1.weight") for name in state if name.endswith(".conv1.weight")):
        width = len(state[f"{name}.conv1.weight"])
        stride, more = (1, 0) if width == x.shape[1] else (2, width - x.shape[1])
        y = F.relu(conv_bn(x, f"{name}.conv1", f"{name}.bn1", stride))
        x = F.relu(
            conv_bn(y, f"{name}.conv2", f"{name}.bn2") + F.pad(x[:, :, ::stride, ::stride], (0,) * 4 + pad(more))
        )
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.mark.parametrize("depth", [8, 20])
def test_option_a_is_either_of_its_two_forms(depth: int) -> None:
    """State dicts are the same, outputs are not: zeros after the channels, or half of them on each side."""
    torch.manual_seed(0)
    images, outputs = torch.randn(4, 3, 32, 32), []
    source = CifarResNet(depth=depth)
    for layer in source.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    source(images)  # the statistics of these images
    state = source.state_dict()
    forms: list[tuple[dict[str, Any], Callable[[int], tuple[int, int]]]] = [
        ({}, lambda more: (0, more)),
        ({"shortcut_padding": "end"}, lambda more: (0, more)),
        ({"shortcut_padding": "both"}, lambda more: (more // 2, more // 2)),
    ]
    for arguments, pad in forms:
        net = CifarResNet(depth=depth, **arguments).eval()
        net.load_state_dict(state)
        with torch.inference_mode():
            outputs.append(net(images))
            torch.testing.assert_close(outputs[-1], reference_logits(state, images, pad))
    assert torch.equal(outputs[0], outputs[1])
    assert (outputs[0] - outputs[2]).abs().max() > 0.1


def test_option_a_has_the_same_two_forms_in_imagenet_networks() -> None:
    build_net = partial(ResNet, depth=18, shortcut="A", stem="small")
    nets = [build_net(shortcut_padding="end"), build_net(shortcut_padding="both")]
    nets[1].load_state_dict(nets[0].state_dict())
    with torch.inference_mode():
        first, second = (net.eval()(torch.ones(1, 3, 16, 16)) for net in nets)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("depth", [18, 50])
def test_zero_init_makes_blocks_identities(depth: Literal[18, 50]) -> None:
    net = ResNet(depth=depth, zero_init_residual=True, stem="small").eval()
    width = 64 if depth == 18 else 256
    images = torch.rand(1, width, 4, 4)  # not negative, so the ReLU after the addition keeps it
    with torch.inference_mode():
        assert torch.equal(net.layer1[1](images.clone()), images)


def test_plain_block_has_no_addition() -> None:
    net = CifarResNet(depth=8, residual=False).eval()
    block = net.layer1[0]
    nn.init.zeros_(block.get_parameter("bn2.weight"))
    with torch.inference_mode():
        assert not block(torch.rand(1, 16, 8, 8)).any()


def test_alexnet_switches() -> None:
    assert kinds(AlexNet(stem="small")).count("LocalResponseNorm") == 2
    plain = AlexNet(stem="small", lrn=False, overlapping_pooling=False, activation="tanh", dropout=0.0)
    assert "LocalResponseNorm" not in kinds(plain)
    assert "ReLU" not in kinds(plain)
    pools = [module for module in plain.modules() if isinstance(module, nn.MaxPool2d)]
    assert [pool.kernel_size for pool in pools] == [2, 2, 2]


def test_alexnet_normalisation_is_the_formula_of_the_paper() -> None:
    norm = next(m for m in AlexNet(stem="small").modules() if isinstance(m, nn.LocalResponseNorm))
    activity = torch.rand(1, 9, 1, 1) * 50
    squares = activity.square().flatten()
    sums = torch.stack([squares[max(0, i - 2) : i + 3].sum() for i in range(9)])
    expected = activity.flatten() / (2 + 1e-4 * sums) ** 0.75
    torch.testing.assert_close(norm(activity).flatten(), expected)


def test_alexnet_biases() -> None:
    net = AlexNet(stem="small", num_classes=10)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    biases = [layer.get_parameter("bias") for layer in layers]
    assert [bias.mean().item() for bias in biases] == [0, 1, 0, 1, 1, 1, 1, 0]


def test_cuda_convnet_switches() -> None:
    relu, tanh = kinds(CudaConvNet()), kinds(CudaConvNet(activation="tanh", lrn=True))
    assert (relu.count("ReLU"), relu.count("Tanh"), relu.count("LocalResponseNorm")) == (3, 0, 0)
    assert (tanh.count("ReLU"), tanh.count("Tanh"), tanh.count("LocalResponseNorm")) == (0, 3, 2)


def test_cuda_convnet_starts_from_the_same_weights_for_either_activation() -> None:
    states = []
    for activation in ("relu", "tanh"):
        torch.manual_seed(0)
        states.append(CudaConvNet(activation=activation).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_vgg_c_has_three_1x1_convolutions() -> None:
    with torch.device("meta"):
        net = VGG(configuration="C")
    kernels = [module.kernel_size for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert (len(kernels), kernels.count((1, 1))) == (13, 3)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [("A", [3, 3, 5, 5, 5]), ("B", [5] * 5), ("C", [5, 5, 5, 5, 5]), ("D", [5, 5, 7, 7, 7]), ("E", [5, 5, 9, 9, 9])],
)
def test_one_layer_takes_the_place_of_a_stack(
    configuration: Literal["A", "B", "C", "D", "E"], expected: list[int]
) -> None:
    """With its receptive field at every pool, and the sizes of its maps."""
    with torch.device("meta"):
        net = VGG(configuration=configuration, stacked=False)
        stacks = VGG(configuration=configuration)
    kernels = [module.kernel_size[0] for module in net.modules() if isinstance(module, nn.Conv2d)]
    assert kernels == expected
    fields = [
        [layer.receptive_field for layer in analyse(vgg, 224).layers if layer.kind == "max pool"]
        for vgg in (net, stacks)
    ]
    assert fields[0] == fields[1]
    images = torch.empty(1, 3, 224, 224, device="meta")
    shapes = [{name: x.shape for name, x in vgg.feature_maps(images).items()} for vgg in (net, stacks)]
    assert shapes[0] == shapes[1]
    assert net.torchvision_name is None


def test_googlenet_batch_norm_replaces_lrn() -> None:
    with torch.device("meta"):
        paper, modern = kinds(GoogLeNet()), kinds(GoogLeNet(batch_norm=True))
    assert (paper.count("LocalResponseNorm"), paper.count("BatchNorm2d")) == (2, 0)
    assert (modern.count("LocalResponseNorm"), modern.count("BatchNorm2d")) == (0, 59)
