"""Read the weights of a network from a file, which may hold several sets of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from convatlas.errors import UserError
from convatlas.utils.tensors import read_torch_file

WRAPPERS = ("state_dict", "model")
"""Entries that are taken without being asked for."""
PREFIXES = ("module.", "net.")
"""What wrappers of a network put before its names."""


@dataclass(frozen=True)
class Origin:
    """How weights were trained, as far as it is known.

    Attributes:
        name: Who trained them.
        settings: Arguments of the network.
        mean: Mean of each channel that images were normalised with, of pixels in [0, 1].
        std: Standard deviation of each channel, likewise.
        classes: Names of the classes in order, a detector's without the background; empty if there are none.
        epsilon: What batch norm adds to variances, where that is not what the network is built with; None elsewhere.
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
        tensors: By name, without the prefixes of wrappers.
        entry: Where the file holds them, keys joined by dots; empty if the file is nothing else.
        others: Other entries that hold weights of the same network, such as an average of these.
        origin: How they were trained; None if the file does not say it.
    """

    tensors: dict[str, Tensor]
    entry: str
    others: tuple[str, ...]
    origin: Origin | None


def read_stored_weights(path: Path, key: str, entry: str | None = None) -> StoredWeights:
    """Read a state dict; code in the file is never executed.

    Takes ``.safetensors`` and torch files. Without ``entry``, the tensors are those of the file itself, or of its
    ``state_dict`` or ``model``. The prefixes ``module.`` and ``net.`` are removed.

    Args:
        path: The file.
        key: The configuration key that named it, for messages; ``<key>_entry`` names the entry.
        entry: The entry to take, keys joined by dots.

    Raises:
        UserError: No such file, not a file of weights, no such entry.
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
    """The entry that holds the weights in most files, and what it holds."""
    keys = []
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            keys.append(wrapper)
    return ".".join(keys), content


def _entries(content: Any, path: str = "") -> Iterable[tuple[str, dict[str, Tensor]]]:
    """Every set of weights in a file by its path: mappings of names to tensors, and the parts of a mixed one."""
    if not isinstance(content, dict):
        return
    if content and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        if any(name.endswith("weight") for name in content):  # the state of an optimizer has none
            yield path, content
            yield from _parts(content, path)
        return
    for name, value in content.items():
        yield from _entries(value, _joined(path, name))


def _parts(content: Mapping[str, Tensor], path: str) -> Iterable[tuple[str, dict[str, Tensor]]]:
    """What a state dict holds beside the network under ``module.`` or ``net.``, by the first word of the names."""
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
    """Whether a third of the names are the same; some averages leave out the buffers, and the dots of names."""
    mine, theirs = ({name.replace(".", "") for name in names} for names in (tensors, _without_prefixes(other)))
    return 3 * len(mine & theirs) >= len(mine) > 0


def _origin(content: Any) -> Origin | None:
    """What a checkpoint of ours says of its training; of a network with a backbone, the backbone's arguments."""
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
