"""Which run a command is: a name that depends on what changes the result, and on nothing else."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WITHOUT_EFFECT = (
    "run",
    "model.weights",
    "model.backbone.weights",
    "format",
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
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
)
"""Keys that say where and how to run; images and initial weights count through their fingerprints."""


def run_id(config: dict[str, Any], *fingerprints: str) -> str:
    """Name a run: ``<model>-<data>-<hash>-s<seed>``.

    Args:
        config: The resolved configuration.
        fingerprints: Hashes of what the configuration names only by path: the data set, the initial weights.

    Returns:
        A name fit for a directory and for W&B, the same on every machine and at every time.
    """
    decisive = copy.deepcopy(config)
    seed = decisive.pop("seed")
    for key in WITHOUT_EFFECT:
        *parents, last = key.split(".")
        node = decisive
        for parent in parents:
            node = node.get(parent, {})
        node.pop(last, None)
    decisive["data"].pop("seed", None)
    text = json.dumps([decisive, *fingerprints], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{config['model']['name']}-{config['data']['name']}-{digest}-s{seed}"


def initial_weights(model: Mapping[str, Any]) -> list[str]:
    """The fingerprints of what a network starts from: its own weights, and its backbone's where it has one."""
    sources = [model["weights"]] + ([model["backbone"]["weights"]] if "backbone" in model else [])
    return [weights_fingerprint(source) for source in sources]


def weights_fingerprint(weights: str | None) -> str:
    """What weights stand for: the SHA-256 of a file's content; torchvision's by name; nothing for None."""
    if weights is None or not Path(weights).is_file():
        return weights or ""
    with Path(weights).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
