"""Which run a command is: a name that depends on what changes the result, and on nothing else."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convatlas.config.arguments import reduced
from convatlas.config.composition import verb_keys
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
"""Keys that say where and how to run; images and initial weights count through their fingerprints."""


def run_id(config: Mapping[str, Any], *fingerprints: str) -> str:
    """Name a run: ``<model>-<data>-<hash>-s<seed>``.

    The hash covers what differs from the defaults of the constructors and of ``conf/train.yaml``. So a new argument
    that stands at its default renames no run, and neither does a class that moves.

    Args:
        config: The resolved configuration.
        fingerprints: Hashes of what the configuration names only by path: the data set, the initial weights.

    Returns:
        A name fit for a directory and for W&B, the same on every machine and at every time.
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
    """Compare two expanded configurations with the same identity: differences are defaults that have changed.

    Args:
        then: As a run recorded it.
        now: As the same command means it today.

    Returns:
        For each key that has an effect on the result, the key with both values. An argument that did not exist then
        had no effect at its default, so it is left out.
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
    """The values of a nested configuration by dotted key; a list is one value."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    found: dict[str, Any] = {}
    for name, item in value.items():
        if name not in ("_convert_", "_partial_"):
            found |= _flat(item, f"{key}.{name}" if key else str(name))
    return found


def initial_weights(model: Mapping[str, Any]) -> list[str]:
    """The fingerprints of what a network starts from: its own weights, and its backbone's where it has one."""
    nodes = [model] + ([model["backbone"]] if model.get("backbone") else [])
    return [weights_fingerprint(node.get("weights"), node.get("weights_entry")) for node in nodes]


def weights_fingerprint(weights: str | None, entry: str | None = None) -> str:
    """What weights stand for: the SHA-256 of a file's content, with the entry that is taken from it.

    torchvision's stand for their name, and None for nothing.
    """
    if weights is None or not Path(weights).is_file():
        return weights or ""
    with Path(weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest if entry is None else f"{digest}:{entry}"
