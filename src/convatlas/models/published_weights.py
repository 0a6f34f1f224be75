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
"""Arguments that all networks of torchvision have and that cannot be inferred from a state dict."""
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
"""The name that torchvision gives to an output without a class."""
INPUTS = MappingProxyType({"googlenet": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))})
"""Mean and standard deviation of networks that renormalise the output of their transforms (``transform_input``)."""
EPSILONS = MappingProxyType({"fasterrcnn_resnet50_fpn": 0.0, "maskrcnn_resnet50_fpn": 0.0})
"""Epsilon of the batch norm of networks that torchvision changes when it loads these weights (``overwrite_eps``)."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation with which torchvision's detectors normalise images internally."""


def torchvision_file(net: Architecture, source: str, key: str) -> Path:
    """Return the path of torchvision's weights for a network. They are downloaded if they are not in torch's cache.

    Args:
        net: The network.
        source: ``torchvision`` for the default weights, or with a name as in ``torchvision:IMAGENET1K_V1``.
        key: The configuration key of the weights, for messages.

    Raises:
        UserError: torchvision has no such network or no weights of this name, or the download fails.
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
        try:  # the file name ends with the first digits of its SHA-256
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{key}={source}: cannot be fetched ({error}); expected internet, or a copy of {url} at {file}"
            ) from error
    return file


def published_weights(file: Path, background_outputs: int) -> Origin | None:
    """Look up the origin of a weight file of torchvision by its name; None for other files.

    Args:
        file: The file.
        background_outputs: Number of background outputs, which precede the outputs of the classes.
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
    """Compute a lower bound of the standard deviation of the inputs from the statistics of the first batch norm.

    The standard deviation of a sum is at most the sum of the standard deviations. Therefore the deviation of the
    output of a convolution is at most the deviation of its inputs times the sum of the absolute values of the kernel.
    The result is the 0.9 quantile over the filters, because averaged weights or vanished filters may violate the bound.

    Returns:
        The bound; None if no batch norm follows the first convolution, or if its statistics are still initial.
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
    """Map the name of each weight file of torchvision to its network and its weights."""
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
