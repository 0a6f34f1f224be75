"""Settings, preprocessing and classes of torchvision's published weights."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import MappingProxyType

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.ops import FrozenBatchNorm2d

from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.stored_weights import Origin

SETTINGS = MappingProxyType({"stride_in": "3x3", "pool": "padded"})
"""Arguments of all of torchvision's networks that their state dicts do not show."""
EARLIER = MappingProxyType(
    {
        "alexnet-owt-4df8aa71.pth": "alexnet",
        "resnet18-5c106cde.pth": "resnet18",
        "resnet34-333f7ec4.pth": "resnet34",
        "resnet50-19c8e357.pth": "resnet50",
        "resnet101-5d3b4d8f.pth": "resnet101",
        "resnet152-b121ed2d.pth": "resnet152",
    }
)
"""Files of ``IMAGENET1K_V1`` in earlier releases of torchvision, and their networks."""
UNUSED = "N/A"
"""What torchvision calls an output that stands for no class."""
INPUTS = MappingProxyType({"googlenet": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))})
"""Mean and deviation where the network itself changes them from those of its transforms (``transform_input``)."""
EPSILONS = MappingProxyType({"fasterrcnn_resnet50_fpn": 0.0, "maskrcnn_resnet50_fpn": 0.0})
"""Epsilon of the batch norm of networks that torchvision changes when it loads these weights (``overwrite_eps``)."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's detectors do to images themselves."""


def torchvision_file(net: Architecture, source: str, key: str) -> Path:
    """Fetch torchvision's weights of a network, or find where an earlier fetch has put them.

    Args:
        net: The network that they are for.
        source: ``torchvision`` or ``torchvision:IMAGENET1K_V1``.
        key: The configuration key that named them, for messages.

    Raises:
        UserError: torchvision does not have this network or weights of that name; they cannot be fetched.
    """
    name = net.torchvision_name
    if name is None:
        raise UserError(
            f"{key}={source}: torchvision has no {type(net).__name__} with these settings; expected a file, or a model "
            "of the table in docs/architectures.md that torchvision has"
        )
    choices = torchvision.models.get_model_weights(name)
    wanted = source.partition(":")[2] or "DEFAULT"
    if wanted not in choices.__members__:
        raise UserError(f"{key}={source}: torchvision's {name} has {', '.join(choice.name for choice in choices)}")
    url = choices[wanted].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:  # the name ends in the first digits of the content's SHA-256
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{key}={source}: cannot be fetched ({error}); expected internet, or a copy of {url} at {file}"
            ) from error
    return file


def published_weights(file: Path, background_outputs: int) -> Origin | None:
    """Look up the training of one of torchvision's files by its name; None for other files.

    Args:
        file: The file.
        background_outputs: Outputs of the network before those of its classes.
    """
    if file.name not in _files():
        return None
    network, weights = _files()[file.name]
    transforms = weights.transforms()
    mean, std = INPUTS.get(network) or (
        (tuple(transforms.mean), tuple(transforms.std)) if hasattr(transforms, "mean") else IMAGENET
    )
    return Origin(
        name=f"torchvision's {network} {weights.name}",
        settings=SETTINGS,
        mean=mean,
        std=std,
        classes=tuple(weights.meta.get("categories") or ())[background_outputs:],
        epsilon=EPSILONS.get(network),
    )


def least_input_deviation(net: nn.Module) -> float | None:
    """The smallest standard deviation of inputs with which a network's first batch norm can have its statistics.

    The deviation of a sum is at most the sum of the deviations. So that of a convolution's output is at most that of
    its inputs times the sum of the kernel's absolute values. Nine filters in ten obey, as an average of weights or a
    filter that has vanished may break the rule.

    Returns:
        The deviation; None if the first convolution has no batch norm, or one that has seen no images.
    """
    conv, norm = _first_layers(net)
    if not isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
        return None
    mean, variance = norm.running_mean, norm.running_var
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor) or not mean.any():
        return None
    gains = conv.weight.detach().abs().sum((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
    return float((variance.sqrt() / gains).quantile(0.9))


def _first_layers(net: nn.Module) -> tuple[nn.Conv2d, nn.Module | None]:
    layers: Iterator[nn.Module] = (layer for layer in net.modules() if not list(layer.children()))
    conv = next(layer for layer in layers if isinstance(layer, nn.Conv2d))
    return conv, next(layers, None)


@cache
def _files() -> dict[str, tuple[str, WeightsEnum]]:
    """Each file of torchvision's weights by name: of which network it is, and which."""
    files = {
        Path(weights.url).name: (network, weights)
        for network in torchvision.models.list_models()
        for weights in torchvision.models.get_model_weights(network)
    }
    earlier = {
        name: (network, torchvision.models.get_model_weights(network)["IMAGENET1K_V1"])
        for name, network in EARLIER.items()
    }
    return files | earlier
