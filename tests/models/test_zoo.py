"""Every configuration of ``conf/model`` that classifies, as it is built for 32-pixel images."""

from pathlib import Path
from typing import Any, Protocol, cast

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from convatlas.models.outputs import ClassifierOutput

FILES = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
SIDE = 32


class Classifier(Protocol):
    """The surface that every classification network has."""

    num_classes: int
    num_features: int

    def forward_features(self, x: Tensor) -> Tensor: ...
    def reset_classifier(self, num_classes: int) -> None: ...


def load(name: str) -> DictConfig:
    file = next(file for file in FILES if file.stem == name)
    return cast(DictConfig, OmegaConf.load(file))


NAMES = [file.stem for file in FILES if "/task/classification@_here_" in load(file.stem).get("defaults", [])]


LARGEST = "resnet1202_cifar"  # too slow to build here; test_facts.py counts its parameters
SMALLER = [name for name in NAMES if name != LARGEST]


def build(name: str, *, device: str = "cpu", num_classes: int = 10, **arguments: Any) -> nn.Module:
    net = load(name).net
    if "stem" in net:
        net.stem = "small"
    with torch.device(device):
        model: nn.Module = hydra.utils.instantiate(net, num_classes=num_classes, **arguments)
    return model


def surface(model: nn.Module) -> Classifier:
    return cast(Classifier, model)


def test_there_are_configurations() -> None:
    assert len(NAMES) >= 36


@pytest.mark.parametrize("name", NAMES)
def test_configuration_form(name: str) -> None:
    lines = next(file for file in FILES if file.stem == name).read_text().splitlines()
    assert load(name).name == name
    assert len(lines) <= 13
    assert lines[0].startswith("# ")
    assert "M parameters" in lines[0]


@pytest.mark.parametrize("name", SMALLER)
def test_learns_from_small_images(name: str) -> None:
    """Finite logits in both modes, and a gradient for every parameter, those of auxiliary heads included."""
    torch.manual_seed(0)
    model = build(name)
    output = model.train()(torch.randn(2, 3, SIDE, SIDE))
    heads = (output.logits, *output.auxiliary) if isinstance(output, ClassifierOutput) else (output,)
    labels = torch.tensor([3, 7])
    losses = [nn.functional.cross_entropy(logits, labels) for logits in heads]
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    assert all(logits.shape == (2, 10) and logits.isfinite().all() for logits in heads)
    without = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    with torch.inference_mode():
        logits = model.eval()(torch.randn(1, 3, SIDE, SIDE))
    assert logits.shape == (1, 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", SMALLER)
def test_surface(name: str) -> None:
    """Shapes only, so nothing is computed."""
    model = build(name, device="meta", in_channels=1).eval()
    images = torch.empty(3, 1, SIDE, SIDE, device="meta")
    features = surface(model).forward_features(images)
    assert features.dim() == 4
    assert features.shape[0] == 3
    assert surface(model).num_classes == 10
    with torch.device("meta"):
        surface(model).reset_classifier(7)
    assert surface(model).num_classes == 7
    assert model(images).shape == (3, 7)
    output = model.train()(images)
    if isinstance(output, ClassifierOutput):
        assert all(logits.shape == (3, 7) for logits in output.auxiliary)
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert linear[-1].weight.shape == (7, surface(model).num_features)
