"""Compare the images and classes of the data with those of the initial weights of a network."""

import math
from collections.abc import Sequence

from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.published_weights import least_input_deviation
from convatlas.models.weights import LoadedWeights
from convatlas.tasks.interfaces import Images
from convatlas.utils.console import warn
from convatlas.utils.distributed import is_rank_zero


def check_initial_weights(net: Architecture, loaded: Sequence[LoadedWeights], data: Images) -> None:
    """Warn if the preprocessing of the images differs from that of the initial weights.

    The normalisation is known for torchvision's weights and for ConvAtlas checkpoints. For other weights, the
    statistics of batch norm show whether the images had a much larger standard deviation, such as pixels of 0 to 255.

    Args:
        net: The network with the loaded weights.
        loaded: The weights from which it was loaded.
        data: The images.

    Raises:
        UserError: The weights have the classes of the data in another order.
    """
    for weights in loaded:
        _check_order(weights, data)
        origin = weights.origin
        if origin and not (_close(origin.mean, data.mean) and _close(origin.std, data.std)):
            _warn(
                f"{weights.source}: {origin.name} was trained on images with data.mean={_listed(origin.mean)} "
                f"data.std={_listed(origin.std)}; here they are {_listed(data.mean)} and {_listed(data.std)}"
            )
        if origin and origin.epsilon is not None and origin.epsilon not in _epsilons(net):
            _warn(
                f"{weights.source}: {origin.name} was trained with a batch norm whose epsilon is {origin.epsilon:g}; "
                f"expected model.net.batch_norm=frozen model.net.batch_norm_epsilon={origin.epsilon:g}"
            )
    deviation = least_input_deviation(net) if any(weights.origin is None for weights in loaded) else None
    largest = 0.5 / min(data.std)  # the standard deviation of pixels in [0, 1] is at most 0.5
    if deviation is not None and deviation > largest:
        _warn(
            f"{', '.join(weights.source for weights in loaded)}: the statistics of the first batch norm are of inputs "
            f"with a standard deviation of {deviation:.3g} or more, and with data.std={_listed(data.std)} it is "
            f"{largest:.3g} at most; weights for pixels of 0 to 255 need "
            f"data.std=[{','.join(['0.00392157'] * data.in_channels)}], and data.mean divided by 255"
        )


def _check_order(weights: LoadedWeights, data: Images) -> None:
    """Refuse data with a class that has another index in the weights."""
    theirs = [_plain(name) for name in weights.classes]
    for index, name in enumerate(data.class_list.names[: len(theirs)]):
        if theirs[index] != _plain(name) and _plain(name) in theirs:
            raise UserError(
                f"{weights.source}: class {index} is {name} in data={data.name} and {theirs[index]} in the weights, "
                f"where {name} is class {theirs.index(_plain(name))}; expected the classes in the order of the "
                "weights, or model.reset_classifier=true"
            )


def _epsilons(net: Architecture) -> set[float]:
    return {layer.eps for layer in net.modules() if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d)}


def _plain(name: str) -> str:
    return name.strip("_").casefold()


def _close(expected: Sequence[float], found: Sequence[float]) -> bool:
    return len(expected) == len(found) and all(
        math.isclose(one, other, rel_tol=0.02) for one, other in zip(expected, found, strict=True)
    )


def _listed(numbers: Sequence[float]) -> str:
    return "[" + ",".join(f"{number:.6g}" for number in numbers) + "]"


def _warn(message: str) -> None:
    if is_rank_zero():
        warn(message)
