"""Load initial weights into a network, from a file or from torchvision."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from convatlas.config.arguments import signature
from convatlas.errors import UserError
from convatlas.models.base import Architecture, OnBackbone
from convatlas.models.published_weights import UNUSED, published_weights, torchvision_file
from convatlas.models.segmentation.segmenter import Segmenter
from convatlas.models.stored_weights import Origin, StoredWeights, read_stored_weights

TORCHVISION = "torchvision"
"""In place of a file: torchvision's default weights, or with ``:NAME`` the weights of that name."""
TRAINED = "current_model_state"
"""Lightning's entry for the trained weights in a checkpoint whose ``state_dict`` contains their average."""
LISTED = 10


@dataclass(frozen=True)
class LoadedWeights:
    """The result of loading a file of weights.

    Attributes:
        source: The source of the weights.
        loaded: Names in the network whose values were loaded.
        new: Names in the network that keep their initial values.
        unused: Names in the file that the network does not have.
        entry: The entry of the file that was read; empty for the file as a whole.
        others: Other entries of the file with weights of the same network.
        assumed: Arguments of the network that change the meaning of the weights and are not recorded in the file.
        origin: The origin of the weights; None if unknown.
        classes: The classes of the loaded classifier, in order. Empty if they are unknown or the classifier is new.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    entry: str = ""
    others: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    origin: Origin | None = None
    classes: tuple[str, ...] = ()

    def __str__(self) -> str:
        entry = self.entry + (", an average" if TRAINED in self.others and self.entry == "state_dict" else "")
        parts = [f"{self.source}{f' ({entry})' if self.others else ''}: {len(self.loaded)} tensors loaded"]
        parts += [f"{word}: {_layers(names)}" for word, names in (("new", self.new), ("unused", self.unused)) if names]
        if self.others:
            parts.append(f"also in the file, for weights_entry: {_listed(self.others)}")
        if self.assumed:
            parts.append(f"the file does not say, so as configured: {', '.join(self.assumed)}")
        return "; ".join(parts)


def load_weights(
    net: Architecture, source: str, *, entry: str | None = None, reset_classifier: bool = False
) -> LoadedWeights:
    """Load weights into a network. All names and shapes must match.

    The stages of a staged training (FCN-32s, 16s, 8s) can be loaded into each other. Layers that they do not share
    keep their initial values.

    Args:
        net: The network.
        source: A file, or a ``source`` of ``torchvision_file``.
        entry: The entry of a file with several sets of weights; None means ``state_dict`` or ``model``.
        reset_classifier: Whether to load a classifier with the number of classes of the weights, and then to replace it
            by a new one with the number of classes of the network.

    Raises:
        UserError: Names are missing, unexpected or of another shape (the message lists at most ten of each); values are
            not finite; the weights were trained with other settings of the network.
    """
    key = "model.weights"
    stored = _read(key, net, source, entry)
    found, classes = stored.tensors, stored.origin.classes if stored.origin and not reset_classifier else ()
    if UNUSED in classes:
        found, classes = _used_outputs(net, found, classes)
    num_classes = net.num_classes
    classifier = found.get(f"{net.classifier_name}.bias")
    if reset_classifier and classifier is not None:
        net.reset_classifier(len(classifier) - net.background_outputs)
    expected = net.state_dict()
    renewed = net.renewed if isinstance(net, Segmenter) else ()
    new = [name for name in expected if name not in found and name.startswith(renewed)]
    unused = [name for name in found if name not in expected and name.startswith(renewed)]
    loaded = {name: value for name, value in found.items() if name not in unused}
    _load(net, f"{key}={source}", loaded, new)
    body = net.classifier_body if isinstance(net, OnBackbone) else None
    assumed = _check_settings(f"{key}={source}", net if body is None else body, stored.origin)
    if reset_classifier:
        net.reset_classifier(num_classes)
    return LoadedWeights(
        source,
        tuple(loaded),
        tuple(new),
        tuple(unused),
        stored.entry,
        stored.others,
        assumed,
        stored.origin,
        classes,
    )


def load_backbone(net: OnBackbone, source: str, *, entry: str | None = None) -> LoadedWeights:
    """Load the weights of a classification network into the backbone of a network.

    Args:
        net: A network with a backbone.
        source: A checkpoint or weight file of the classification network, or torchvision's weights.
        entry: The entry of a file with several sets of weights; None means ``state_dict`` or ``model``.

    Raises:
        UserError: The network has no backbone; names or shapes do not match the backbone (the message lists at most ten
            of each); values are not finite; the weights were trained with other settings of the backbone.
    """
    key = "model.backbone.weights"
    body = net.classifier_body
    if body is None:
        raise UserError(f"{key}={source}: {type(net).__name__} has no backbone; expected null, and model.weights")
    stored = _read(key, body, source, entry)
    carried = net.convert_backbone_state_dict(stored.tensors)
    new = [name for name in net.state_dict() if not name.startswith(net.carried)]
    _load(net, f"{key}={source}", carried, new)
    assumed = _check_settings(f"{key}={source}", body, stored.origin)
    unused = [name for name in stored.tensors if name.startswith(f"{body.classifier_name}.")]
    return LoadedWeights(
        source, tuple(carried), tuple(new), tuple(unused), stored.entry, stored.others, assumed, stored.origin
    )


def _read(key: str, net: Architecture, source: str, entry: str | None) -> StoredWeights:
    if source.partition(":")[0] == TORCHVISION:
        if entry is not None:
            raise UserError(f"{key}_entry={entry}: torchvision's files hold one set of weights; expected null")
        file = torchvision_file(net, source, key)
    else:
        file = Path(source)
    published = published_weights(file, net.background_outputs)
    if published is not None and not published.classes:
        raise UserError(f"{key}={source}: {published.name} has no values for the classifier; expected other weights")
    stored = read_stored_weights(file, key, entry)
    return replace(stored, origin=published or stored.origin)


def _check_settings(where: str, net: Architecture, origin: Origin | None) -> tuple[str, ...]:
    """Compare the ``unnamed_settings`` of a network with those of the training. Returns those that are unknown."""
    if origin is None:
        return tuple(f"{name}={here}" for name, here in net.unnamed_settings.items())
    defaults = signature(type(net))
    for name, here in net.unnamed_settings.items():
        there = origin.settings.get(name, defaults[name].default)
        if there != here:
            raise UserError(
                f"{where}: {origin.name} was trained with {name}={there}, and this {type(net).__name__} has "
                f"{name}={here}; names and shapes are the same, the network is not: expected {name}={there}"
            )
    return ()


def _used_outputs(
    net: Architecture, found: dict[str, Tensor], classes: tuple[str, ...]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Remove the outputs without a class, if the network has as many classes as remain.

    torchvision's detectors have an output for each category number of COCO, and ten of these numbers are not in use.
    """
    used = [index for index, name in enumerate(classes) if name != UNUSED]
    if len(used) != net.num_classes:
        return found, classes
    background = net.background_outputs
    rows = torch.tensor([*range(background), *(index + background for index in used)])
    outputs = len(classes) + background
    chosen = {
        name: found[name].reshape(outputs, -1, *found[name].shape[1:])[rows].flatten(0, 1)
        for name, expected in net.state_dict().items()
        if name in found and found[name].shape != expected.shape and len(found[name]) % outputs == 0
    }
    return found | chosen, tuple(classes[index] for index in used)


def check_fit(
    net: Architecture, where: str, found: Mapping[str, Tensor], new: Collection[str] = (), advice: str = ""
) -> None:
    """Check that weights match the names, shapes and types of a network except for the ``new`` names.

    Args:
        net: The network. It may be on the meta device.
        where: The source of the weights, for messages.
        found: The weights by name.
        new: Names in the network that the weights must not contain.
        advice: The end of the message if the classifier does not fit.

    Raises:
        UserError: Names are missing, unexpected, or of another shape or type (the message lists at most ten of each);
            values are not finite.
    """
    expected = {name: value for name, value in net.state_dict().items() if name not in new}
    problems = {
        # Files from before torch 0.4.1 lack num_batches_tracked of BatchNorm. torch accepts them too.
        "missing": [name for name in expected if name not in found and not name.endswith("num_batches_tracked")],
        # Frozen BatchNorm has statistics but no num_batches_tracked.
        "unexpected": [name for name in found if name.replace("num_batches_tracked", "running_mean") not in expected],
        "misshapen": [
            f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ],
        "of another type": [name for name in expected if name in found and not _is_like(found[name], expected[name])],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        if f"{net.classifier_name}.bias" in listed:
            listed += advice
        raise UserError(f"{where} does not fit {type(net).__name__}: {listed}")
    damaged = [name for name, value in found.items() if value.is_floating_point() and not value.isfinite().all()]
    if damaged:
        raise UserError(f"{where}: values that are not finite in {_listed(damaged)}; expected trained weights in all")


def _is_like(value: Tensor, expected: Tensor) -> bool:
    """Whether a tensor is dense, has values in memory, and is floating-point exactly if ``expected`` is."""
    in_memory = value.layout is torch.strided and not value.is_meta
    return in_memory and value.is_floating_point() == expected.is_floating_point()


def _load(net: Architecture, where: str, found: Mapping[str, Tensor], new: Collection[str]) -> None:
    advice = "; model.reset_classifier=true takes weights of another number of classes"
    check_fit(net, where, found, new, advice)
    net.load_state_dict(found, strict=not new)


def _listed(names: Sequence[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


def _layers(names: Iterable[str]) -> str:
    """List the top-level modules of the network that tensors belong to, each once."""
    return _listed(list(dict.fromkeys(name.rpartition(".")[0].partition(".")[0] for name in names)))
