"""Read the weights of a network from a file, which may contain several sets of weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from convatlas.errors import UserError
from convatlas.utils.tensors import read_torch_file

WRAPPERS = ("state_dict", "model")
"""Entries of a file that are used by default."""
PREFIXES = ("module.", "net.")
"""Prefixes that wrappers such as ``DistributedDataParallel`` add to parameter names."""


@dataclass(frozen=True)
class Origin:
    """The origin of weights: settings and preprocessing of their training, as far as known.

    Attributes:
        name: The source of the weights, for messages.
        settings: Arguments of the network.
        mean: Mean of each channel for normalisation, of pixels in [0, 1].
        std: Standard deviation of each channel for normalisation, of pixels in [0, 1].
        classes: Names of the classes in order, without the background of a detector. Empty if unknown.
        epsilon: Epsilon of batch norm, if it differs from the one that the network is built with; otherwise None.
    """

    name: str
    settings: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    epsilon: float | None = None


@dataclass(frozen=True)
class StoredWeights:
    """One set of weights of a file.

    Attributes:
        tensors: The tensors by name, without the prefixes of wrappers.
        entry: The entry of the file that contains them, as keys joined by dots. Empty for the file as a whole.
        others: Other entries with weights of the same network, such as averaged weights.
        origin: The origin of the weights; None if the file does not contain it.
    """

    tensors: dict[str, Tensor]
    entry: str
    others: tuple[str, ...]
    origin: Origin | None


def read_stored_weights(path: Path, key: str, entry: str | None = None) -> StoredWeights:
    """Read a state dict from a ``.safetensors`` or torch file. Code in the file is never executed.

    Without ``entry``, the state dict is the file itself, or its entry ``state_dict`` or ``model``. The prefixes
    ``module.`` and ``net.`` are removed from the names.

    Args:
        path: The file.
        key: The configuration key of the file, for messages. ``<key>_entry`` is the key of the entry.
        entry: The entry to read, as keys joined by dots.

    Raises:
        UserError: The file does not exist, contains no weights, or has no such entry.
    """
    content = read_torch_file(path, key)
    entries = dict(_entries(content))
    listed = ", ".join(filter(None, entries))
    if entry is None:
        entry, chosen = _usual_entry(content)
        if not isinstance(chosen, dict) or not all(isinstance(value, Tensor) for value in chosen.values()):
            hint = f"; {key}_entry takes one of {listed}" if listed else ""
            raise UserError(f"{key}={path}: expected a state dict, names to tensors{hint}")
    elif entry in entries:
        chosen = entries[entry]
    else:
        raise UserError(f"{key}_entry={entry}: {path} has no such entry of weights; it has {listed or 'none'}")
    tensors = _without_prefixes(chosen)
    others = tuple(name for name, other in entries.items() if name not in ("", entry) and _same_network(tensors, other))
    return StoredWeights(tensors, entry, others, _origin(content))


def _usual_entry(content: Any) -> tuple[str, Any]:
    """Find the entry that contains the weights in most files, and return its path and its content."""
    keys = []
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            keys.append(wrapper)
    return ".".join(keys), content


def _entries(content: Any, path: str = "") -> Iterable[tuple[str, dict[str, Tensor]]]:
    """Find all state dicts in a file, and the parts of a state dict that contains several networks.

    Yields:
        The path of the state dict, as keys joined by dots, and the state dict.
    """
    if not isinstance(content, dict):
        return
    if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        if any(name.endswith("weight") for name in content):  # not the state of an optimizer
            yield path, content
            yield from _parts(content, path)
        return
    for name, value in content.items():
        yield from _entries(value, _joined(path, name))


def _parts(content: Mapping[str, Tensor], path: str) -> Iterable[tuple[str, dict[str, Tensor]]]:
    """Find the parts of a state dict beside the network under ``module.`` or ``net.``, such as an average of it.

    A part consists of the tensors whose names begin with the same word.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in content.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = value
    if any(prefix.rstrip(".") in parts for prefix in PREFIXES):
        for first, part in parts.items():
            if f"{first}." not in PREFIXES:
                yield _joined(path, first), part


def _joined(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _without_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    return found


def _same_network(tensors: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Check whether at least a third of the names are equal.

    The limit is low because some averages contain no buffers. Dots are ignored because some averages remove them.
    """
    mine, theirs = ({name.replace(".", "") for name in names} for names in (tensors, _without_prefixes(other)))
    return 3 * len(mine & theirs) >= len(mine) > 0


def _origin(content: Any) -> Origin | None:
    """Read the origin from a ConvAtlas checkpoint; None for other files.

    For a network with a backbone, the settings are the arguments of the backbone.
    """
    try:
        record = content["convatlas"]
        net, data = record["config"]["model"]["net"], record["config"]["data"]
        return Origin(
            name=f"the run {record['run_id']}",
            settings=net.get("backbone", net),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            classes=tuple(record["class_list"]),
        )
    except (KeyError, TypeError):
        return None
