"""Where torchvision has the same network, state dicts interchange and outputs are equal to the last bit."""

from collections import Counter
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from convatlas.models.classification.classifier import Classifier
from convatlas.models.outputs import ClassifierOutput
from tests.models.zoo import NAMES, SMALLER, build, heads, loss, slow_except

PAIRS = {
    "alexnet": "alexnet_torchvision",
    "googlenet": "googlenet_torchvision",
    "vgg11": "vgg11",
    "vgg13": "vgg13",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "vgg11_bn": "vgg11_bn",
    "vgg13_bn": "vgg13_bn",
    "vgg16_bn": "vgg16_bn",
    "vgg19_bn": "vgg19_bn",
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50_v15",
    "resnet101": "resnet101_v15",
    "resnet152": "resnet152_v15",
}
"""torchvision's name of a network: the configuration that builds ours."""
QUICK = ["alexnet", "googlenet", "resnet18", "resnet50"]


def theirs(name: str) -> nn.Module:
    arguments = {"init_weights": True} if name == "googlenet" else {}
    net: nn.Module = torchvision.models.get_model(name, num_classes=10, **arguments)
    return net


def exchange(reference: nn.Module, name: str) -> Classifier:
    """Our network with the weights of the reference, after they have gone both ways."""
    net = build(PAIRS[name], device="meta", stem="imagenet")
    net.load_state_dict({key: value.clone() for key, value in reference.state_dict().items()}, assign=True)
    reference.load_state_dict(net.state_dict())
    return net


def remember_the_last_batch(net: nn.Module) -> None:
    """Make the running statistics those of the last batch in training, so that evaluation keeps signals alive."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0


def seeded(net: nn.Module, images: Tensor) -> Any:
    """The output, with the same dropout for both networks."""
    torch.manual_seed(1)
    return net(images)


def as_ours(output: Any) -> Tensor | ClassifierOutput:
    """Of torchvision's GoogLeNet in training, the three outputs in our form."""
    if isinstance(output, Tensor | ClassifierOutput):
        return output
    return ClassifierOutput(output.logits, (output.aux_logits1, output.aux_logits2))


def relative_difference(ours: Tensor | None, expected: Tensor | None) -> float:
    assert ours is not None
    assert expected is not None
    assert expected.norm() > 0
    return float((ours - expected).norm() / expected.norm())


def compare(name: str, side: int) -> None:
    torch.manual_seed(0)
    reference = theirs(name)
    net = exchange(reference, name)
    images = torch.randn(2, 3, side, side)
    for each in (reference, net):
        remember_the_last_batch(each)
        each.train()
    expected, output = as_ours(seeded(reference, images)), seeded(net, images)
    assert len(heads(output)) == len(heads(expected)) == (3 if name == "googlenet" else 1)
    for ours, logits in zip(heads(output), heads(expected), strict=True):
        assert logits.std() > 0
        assert torch.equal(ours, logits)
    statistics = dict(reference.named_buffers())
    assert all(torch.equal(value, statistics[key]) for key, value in net.named_buffers())

    with torch.inference_mode():
        logits, ours = reference.eval()(images), net.eval()(images)
    assert logits.std() > 0
    assert torch.equal(ours, logits)

    loss(expected).backward()  # type: ignore[no-untyped-call]
    loss(output).backward()  # type: ignore[no-untyped-call]
    differences = {
        key: relative_difference(parameter.grad, reference.get_parameter(key).grad)
        for key, parameter in net.named_parameters()
    }
    assert {key: value for key, value in differences.items() if not value <= 1e-6} == {}


@pytest.mark.parametrize("name", slow_except(QUICK, list(PAIRS)))
def test_training_and_evaluation_are_identical(name: str) -> None:
    """Outputs in both modes, every gradient, and the running statistics."""
    compare(name, 96)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet", "googlenet", "vgg16", "vgg11_bn", "resnet18", "resnet50"])
def test_training_and_evaluation_are_identical_at_the_paper_s_size(name: str) -> None:
    compare(name, 224)


@pytest.mark.parametrize("name", slow_except(SMALLER, NAMES))
def test_torchvision_name(name: str) -> None:
    """It is given for the networks that fit, and for no others; the small stem fits nothing."""
    expected = {config: torchvision_name for torchvision_name, config in PAIRS.items()}.get(name)
    net = build(name, device="meta", stem="imagenet", num_classes=1000)
    assert net.torchvision_name == expected
    assert build(name, device="meta").torchvision_name is None
    if expected is not None:
        arguments = {"init_weights": False} if expected == "googlenet" else {}
        with torch.device("meta"):
            reference = torchvision.models.get_model(expected, **arguments).state_dict()
        shapes = {key: value.shape for key, value in net.state_dict().items()}
        assert shapes == {key: value.shape for key, value in reference.items()}


def test_no_network_of_torchvision_is_left_out() -> None:
    families = ("alexnet", "googlenet", "vgg*", "resnet*")
    assert set(PAIRS) == {
        name for family in families for name in torchvision.models.list_models(torchvision.models, include=family)
    }


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what torch is asked to compute, by operation and the shapes of its inputs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        shapes = [tuple(leaf.shape) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        self.counts[f"{func} {shapes}"] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", slow_except(["alexnet", "googlenet", "vgg11_bn", "resnet18", "resnet50"], list(PAIRS)))
def test_a_training_step_is_the_same_operations(name: str) -> None:
    """No operation more than torchvision's, forward and backward: speed, as far as it does not depend on the day."""
    counts = []
    with torch.device("meta"):
        arguments = {"init_weights": False} if name == "googlenet" else {}
        reference = torchvision.models.get_model(name, num_classes=10, **arguments)
        for net in (reference, build(PAIRS[name], device="meta", stem="imagenet")):
            with Operations() as operations:
                loss(as_ours(net.train()(torch.empty(2, 3, 224, 224)))).backward()  # type: ignore[no-untyped-call]
            counts.append(operations.counts)
    theirs_counts, ours_counts = counts
    assert sum(ours_counts.values()) > 40
    assert (ours_counts - theirs_counts, theirs_counts - ours_counts) == (Counter(), Counter())
