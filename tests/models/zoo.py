"""The configurations of ``conf/model`` that classify, and what the tests of several networks share."""

from pathlib import Path
from typing import Any, Literal, cast

import hydra
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from convatlas.models.classification.classifier import Classifier
from convatlas.models.outputs import ClassifierOutput

FILES = {file.stem: file for file in sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))}


def load(name: str) -> DictConfig:
    return cast(DictConfig, OmegaConf.load(FILES[name]))


NAMES = [name for name in FILES if "/task/classification@_here_" in load(name).get("defaults", [])]
LARGEST = "resnet1202_cifar"
"""Computed in one slow test; everywhere else on the meta device only."""
SMALLER = [name for name in NAMES if name != LARGEST]


def net_config(name: str, *, stem: Literal["imagenet", "small"] = "small", num_classes: int = 10) -> DictConfig:
    """The ``net`` of a configuration, resolved; the networks for 32 pixels have no choice of a stem."""
    net = cast(DictConfig, load(name).net)
    if "stem" in net:
        net.stem = stem
    net.num_classes = num_classes
    return net


def build(
    name: str,
    *,
    device: str = "cpu",
    stem: Literal["imagenet", "small"] = "small",
    num_classes: int = 10,
    **arguments: Any,
) -> Classifier:
    with torch.device(device):
        model: Classifier = hydra.utils.instantiate(net_config(name, stem=stem, num_classes=num_classes), **arguments)
    return model


def heads(output: Tensor | ClassifierOutput) -> list[Tensor]:
    """The logits of every head, the last layer's first."""
    return [output.logits, *output.auxiliary] if isinstance(output, ClassifierOutput) else [output]


def loss(output: Tensor | ClassifierOutput) -> Tensor:
    """The sum of the heads' cross-entropies, for labels that differ from image to image."""
    logits = heads(output)
    labels = (torch.arange(len(logits[0])) * 4 + 3) % 10
    return torch.stack([nn.functional.cross_entropy(head, labels) for head in logits]).sum()


def slow_except(quick: list[str], names: list[str]) -> list[Any]:
    """Parameters of a test over ``names``, of which only the quick ones run by default."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
