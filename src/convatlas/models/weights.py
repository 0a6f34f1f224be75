"""Start a network from a file of weights, or from torchvision's."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from convatlas.errors import UserError
from convatlas.models.architecture import Architecture, OnBackbone
from convatlas.models.segmenter import Segmenter
from convatlas.torchfile import read_torch_file

TORCHVISION = "torchvision"
"""Instead of a file: torchvision's best weights, or with ``:NAME`` the ones of that name."""
LISTED = 10


def read_state_dict(path: Path, key: str) -> dict[str, Tensor]:
    """Read a state dict; code in the file is never executed.

    Takes ``.safetensors`` and torch files; finds the tensors of a network inside ``state_dict`` and ``model`` wrappers
    and our own checkpoints, and strips the ``module.`` and ``net.`` prefixes.

    Args:
        path: The file.
        key: The configuration key that named it, for messages.

    Raises:
        UserError: No such file, or not a file of weights.
    """
    content = read_torch_file(path, key)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{key}={path}: expected a state dict, names to tensors")
    for prefix in ("module.", "net."):
        if content and any(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
    return dict(content)


def torchvision_state_dict(net: Architecture, source: str, key: str) -> dict[str, Tensor]:
    """Fetch torchvision's weights of a network, or read them where an earlier fetch has put them.

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
    return read_state_dict(file, key)


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a file of weights.

    Attributes:
        source: Where they come from.
        loaded: Names in the network that have them now.
        new: Names in the network that keep the values they started with.
        unused: Names of the file that the network has no use for.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.source}: {len(self.loaded)} tensors loaded"]
        parts += [f"{word}: {_layers(names)}" for word, names in (("new", self.new), ("unused", self.unused)) if names]
        return "; ".join(parts)


def load_weights(net: Architecture, source: str, *, reset_classifier: bool = False) -> LoadedWeights:
    """Load weights into a network, strictly.

    The stages of a staged training (FCN-32s, 16s, 8s) start from each other: what they do not share stays new.

    Args:
        net: The network.
        source: A file, or what ``torchvision_state_dict`` takes.
        reset_classifier: Load at the weights' own number of classes, then give the network a new classifier with
            the number it had.

    Raises:
        UserError: Listing the missing, unexpected and misshapen names, at most ten each.
    """
    found = _read("model.weights", net, source)
    num_classes = net.num_classes
    classifier = found.get(f"{net.classifier_name}.bias")
    if reset_classifier and classifier is not None:
        net.reset_classifier(len(classifier) - net.background_outputs)
    expected = net.state_dict()
    renewed = net.renewed if isinstance(net, Segmenter) else ()
    new = [name for name in expected if name not in found and name.startswith(renewed)]
    unused = [name for name in found if name not in expected and name.startswith(renewed)]
    loaded = {name: value for name, value in found.items() if name not in unused}
    _load(net, f"model.weights={source}", loaded, new)
    if reset_classifier:
        net.reset_classifier(num_classes)
    return LoadedWeights(source, tuple(loaded), tuple(new), tuple(unused))


def load_backbone(net: OnBackbone, source: str) -> LoadedWeights:
    """Carry a trained classification network over into the network that stands on it.

    Args:
        net: A network with a backbone.
        source: A checkpoint or file of weights of the backbone as a classification network, or torchvision's.

    Raises:
        UserError: The network has no backbone; the weights are not the backbone's: names and shapes, ten at most.
    """
    key = "model.backbone.weights"
    body = net.classifier_body
    if body is None:
        raise UserError(f"{key}={source}: {type(net).__name__} has no backbone; expected null, and model.weights")
    classifier = _read(key, body, source)
    carried = net.carry_over(classifier)
    new = [name for name in net.state_dict() if not name.startswith(net.carried)]
    _load(net, f"{key}={source}", carried, new)
    unused = [name for name in classifier if name.startswith(f"{body.classifier_name}.")]
    return LoadedWeights(source, tuple(carried), tuple(new), tuple(unused))


def _read(key: str, net: Architecture, source: str) -> dict[str, Tensor]:
    if source.partition(":")[0] == TORCHVISION:
        return torchvision_state_dict(net, source, key)
    return read_state_dict(Path(source), key)


def _load(net: Architecture, where: str, found: Mapping[str, Tensor], new: Collection[str]) -> None:
    """Load all of a network but the ``new`` names, and nothing else."""
    expected = {name: value for name, value in net.state_dict().items() if name not in new}
    problems = {
        # Files from before torch 0.4.1 lack the count of batches that BatchNorm has seen; torch takes them too.
        "missing": [name for name in expected if name not in found and not name.endswith("num_batches_tracked")],
        # Frozen BatchNorm has statistics and no count.
        "unexpected": [name for name in found if name.replace("num_batches_tracked", "running_mean") not in expected],
        "misshapen": [
            f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        if f"{net.classifier_name}.bias" in listed:
            listed += "; model.reset_classifier=true takes weights of another number of classes"
        raise UserError(f"{where} does not fit {type(net).__name__}: {listed}")
    net.load_state_dict(found, strict=not new)


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


def _layers(names: Iterable[str]) -> str:
    """The layers, or parts of the network, that tensors belong to, each once."""
    return _listed(list(dict.fromkeys(name.rpartition(".")[0].partition(".")[0] for name in names)))
