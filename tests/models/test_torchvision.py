"""Where torchvision has the same network, state dicts interchange and outputs are equal to the last bit."""

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from convatlas.models.alexnet import AlexNetTorchvision
from convatlas.models.googlenet import GoogLeNetTorchvision
from convatlas.models.outputs import ClassifierOutput
from convatlas.models.resnet import ResNet
from convatlas.models.vgg import VGG


def theirs_googlenet() -> nn.Module:
    net: nn.Module = torchvision.models.googlenet(init_weights=False)
    return net


def randomise(net: nn.Module) -> None:
    """Give running statistics, which a new network has at 0 and 1, values that keep activations alive."""
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.0)
        elif name.endswith("running_var"):
            buffer.uniform_(0.1, 1.0)


def exchange(reference: nn.Module, ours: Callable[[], nn.Module]) -> nn.Module:
    """Our network with the weights of the reference, after they have gone both ways."""
    with torch.device("meta"):
        net = ours()
    net.load_state_dict(reference.state_dict(), assign=True)
    reference.load_state_dict(net.state_dict())
    return net


@pytest.mark.parametrize(
    ("theirs", "ours", "side"),
    [
        (torchvision.models.alexnet, AlexNetTorchvision, 96),
        (torchvision.models.vgg11, lambda: VGG(configuration="A"), 64),
        (torchvision.models.vgg16_bn, lambda: VGG(configuration="D", batch_norm=True), 64),
        (theirs_googlenet, GoogLeNetTorchvision, 96),
        (torchvision.models.resnet18, lambda: ResNet(depth=18), 96),
        (torchvision.models.resnet50, lambda: ResNet(depth=50, stride_in="3x3"), 96),
    ],
    ids=["alexnet", "vgg11", "vgg16_bn", "googlenet", "resnet18", "resnet50"],
)
def test_outputs_are_identical(theirs: Callable[[], nn.Module], ours: Callable[[], nn.Module], side: int) -> None:
    torch.manual_seed(0)
    reference = theirs().eval()
    randomise(reference)
    net = exchange(reference, ours).eval()
    images = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        expected, logits = reference(images), net(images)
    assert expected.std() > 0
    assert torch.equal(logits, expected)


def test_googlenet_auxiliary_outputs_are_identical() -> None:
    torch.manual_seed(0)
    reference: nn.Module = torchvision.models.googlenet(
        init_weights=False, dropout=0.0, dropout_aux=0.0, num_classes=10
    )
    net = exchange(reference, lambda: GoogLeNetTorchvision(dropout=0.0, auxiliary_dropout=0.0, num_classes=10))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected, output = reference.train()(images), net.train()(images)
    assert isinstance(output, ClassifierOutput)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.auxiliary[0], expected.aux_logits1)
    assert torch.equal(output.auxiliary[1], expected.aux_logits2)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (torchvision.models.vgg13, lambda: VGG(configuration="B")),
        (torchvision.models.vgg16, lambda: VGG(configuration="D")),
        (torchvision.models.vgg19, lambda: VGG(configuration="E")),
        (torchvision.models.vgg11_bn, lambda: VGG(configuration="A", batch_norm=True)),
        (torchvision.models.vgg13_bn, lambda: VGG(configuration="B", batch_norm=True)),
        (torchvision.models.vgg19_bn, lambda: VGG(configuration="E", batch_norm=True)),
        (torchvision.models.resnet34, lambda: ResNet(depth=34)),
        (torchvision.models.resnet101, lambda: ResNet(depth=101, stride_in="3x3")),
        (torchvision.models.resnet152, lambda: ResNet(depth=152, stride_in="3x3")),
    ],
)
def test_names_and_shapes_are_identical(theirs: Callable[[], nn.Module], ours: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        expected, net = theirs().state_dict(), ours().state_dict()
    assert {name: t.shape for name, t in net.items()} == {name: t.shape for name, t in expected.items()}
