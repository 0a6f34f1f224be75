"""What the switches of the papers' ablations change."""

from typing import Any, Literal

import pytest
import torch
from hydra.errors import InstantiationException
from torch import nn

from convatlas.analysis.layers import analyse
from convatlas.errors import UserError
from convatlas.models.alexnet import AlexNet
from convatlas.models.cuda_convnet import CudaConvNet
from convatlas.models.googlenet import GoogLeNet
from convatlas.models.resnet import CifarResNet, ResNet, ZeroPadShortcut
from convatlas.models.vgg import VGG
from tests.models.zoo import build


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


def test_depth_that_is_not_6n_plus_2() -> None:
    with pytest.raises(UserError, match=r"model\.net\.depth=21: expected 6n \+ 2"):
        CifarResNet(depth=21)


def test_plain_net_cannot_start_blocks_at_zero() -> None:
    with pytest.raises(UserError, match=r"model\.net\.zero_init_residual"):
        ResNet(depth=18, residual=False, zero_init_residual=True)


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
        states.append(CudaConvNet(activation=activation).state_dict())  # type: ignore[arg-type]
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
