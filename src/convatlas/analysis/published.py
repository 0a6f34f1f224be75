"""Figures that papers print for their networks. The papers call a multiply-add a FLOP."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The figures of a paper, with the precision that it prints.

    Attributes:
        parameters: Weights and biases, or None if the paper does not say.
        multiply_adds: For one image, or None.
        source: The place in the paper.
    """

    parameters: float | None
    multiply_adds: float | None
    source: str


_VGG = "VGG, table 2"
_RESNET = "ResNet, table 1"
_CIFAR = "ResNet, table 6"

PUBLISHED = {
    "alexnet": Published(60e6, None, "AlexNet, abstract"),
    "vgg11": Published(133e6, None, _VGG),
    "vgg11_lrn": Published(133e6, None, _VGG),
    "vgg13": Published(133e6, None, _VGG),
    "vgg16_c": Published(134e6, None, _VGG),
    "vgg16": Published(138e6, 15.3e9, f"{_VGG}; ResNet, section 4.1 (the convolutions alone)"),
    "vgg19": Published(144e6, 19.6e9, f"{_VGG}; ResNet, section 4.1"),
    "googlenet": Published(6.8e6, 1.5e9, "GoogLeNet, sum of table 1; section 1"),
    "resnet18": Published(None, 1.8e9, _RESNET),
    "resnet34": Published(None, 3.6e9, _RESNET),
    "resnet50": Published(None, 3.8e9, _RESNET),
    "resnet101": Published(None, 7.6e9, _RESNET),
    "resnet152": Published(None, 11.3e9, _RESNET),
    "plain18": Published(None, 1.8e9, _RESNET),
    "plain34": Published(None, 3.6e9, _RESNET),
    "resnet20_cifar": Published(0.27e6, None, _CIFAR),
    "resnet32_cifar": Published(0.46e6, None, _CIFAR),
    "resnet44_cifar": Published(0.66e6, None, _CIFAR),
    "resnet56_cifar": Published(0.85e6, None, _CIFAR),
    "resnet110_cifar": Published(1.7e6, None, _CIFAR),
    "resnet1202_cifar": Published(19.4e6, None, _CIFAR),
}
"""The figures by name of the configuration, for networks that a paper describes."""


def printed_text(value: float | None) -> str:
    """A figure as text: ``3.8 G``, ``0.27 M``; empty for None."""
    if value is None:
        return ""
    return f"{value / 1e9:g} G" if value >= 1e9 else f"{value / 1e6:g} M"
