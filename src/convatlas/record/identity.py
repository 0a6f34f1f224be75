"""The run id: a name that depends only on the settings that change the result."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convatlas.config.arguments import reduced
from convatlas.config.composition import verb_keys
from convatlas.config.public_names import public_name
from convatlas.utils.files import dumps

MISSING = "no such key"

IGNORED_KEYS = (
    "run",
    "model.weights",
    "model.weights_entry",
    "model.backbone.weights",
    "model.backbone.weights_entry",
    "format",
    "largest_batch",
    "expected",
    "seeds",
    "tracking",
    "data.threads",
    "data.prefetch",
    "data.root",
    "data.dataset.download",
    "data.dataset.scan_cache",
    "data.split",
    "data.fingerprint",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.detect_anomaly",
    "trainer.enable_autolog_hparams",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.model_registry",
    "trainer.profiler",
)
"""Keys that do not change the result, or count in another way: images and initial weights by their fingerprints."""


def run_id(config: Mapping[str, Any], *fingerprints: str) -> str:
    """Name a run: ``<model>-<data>-<hash>-s<seed>``.

    The hash covers the settings that differ from the defaults of the constructors and of ``conf/train.yaml``. So run
    ids stay the same when an argument with a default is added, or when a class moves.

    Args:
        config: The resolved configuration.
        fingerprints: Hashes of the contents that the configuration names only by path: data set, initial weights.

    Returns:
        A name that is valid for a directory and for W&B, and the same on every machine.
    """
    found = {number: fingerprint for number, fingerprint in enumerate(fingerprints) if fingerprint}
    text = json.dumps([decisive_settings(config), found], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{config['model']['name']}-{config['data']['name']}-{digest}-s{config['seed']}"


def decisive_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change the result and differ from their defaults, without the seed."""
    settings = without_effect_removed(config)
    found: dict[str, Any] = reduced(settings)
    for key, usual in verb_keys("train").items():
        if isinstance(usual, dict) and key in found:
            found[key] = {name: value for name, value in found[key].items() if value != usual.get(name)}
    return {key: value for key, value in found.items() if value not in (None, {})}


def without_effect_removed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the seed and the keys of ``IGNORED_KEYS``."""
    settings = copy.deepcopy(dict(config))
    for key in (*IGNORED_KEYS, "seed", "data.seed", "augment"):  # the data module holds the augmentation, too
        _remove(settings, key.split("."))
    return settings


def changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare two expanded configurations with the same run id: a difference is a default that has changed.

    Args:
        then: The configuration that a run recorded.
        now: The configuration of the same command today.

    Returns:
        A line with both values for each key that has an effect on the result. New arguments are left out: their
        defaults keep the former behaviour.
    """
    before, after = (_flat(without_effect_removed(config)) for config in (then, now))
    return [
        f"{key} was {before[key]}, now {after.get(key, 'gone: there is no such key any more')}"
        for key in before
        if dumps(before[key]) != dumps(after.get(key, MISSING))
    ]


def _remove(node: dict[str, Any], path: Sequence[str]) -> None:
    """Remove a key, and the mappings around it that it leaves empty."""
    name, *rest = path
    if rest and isinstance(node.get(name), dict):
        _remove(node[name], rest)
    if not rest or node.get(name) == {}:
        node.pop(name, None)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """The values of a nested configuration by dotted key, with public names of today; a list is one value."""
    if key.endswith("_target_") and isinstance(value, str):
        return {key: public_name(value) or value}
    if not isinstance(value, dict) or not value:
        return {key: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        if name not in ("_convert_", "_partial_"):
            found |= _flat(item, f"{key}.{name}" if key else str(name))
    return found


def initial_weights(model: Mapping[str, Any]) -> list[str]:
    """The fingerprints of a network's initial weights, and of those of its backbone if it has one."""
    nodes = [model] + ([model["backbone"]] if model.get("backbone") else [])
    return [weights_fingerprint(node.get("weights"), node.get("weights_entry")) for node in nodes]


def weights_fingerprint(weights: str | None, entry: str | None = None) -> str:
    """Fingerprint initial weights: the SHA-256 of a file, with the entry that is read from it.

    Weights of torchvision are named, not hashed; None gives an empty text.
    """
    if weights is None or not Path(weights).is_file():
        return weights or ""
    with Path(weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest if entry is None else f"{digest}:{entry}"
