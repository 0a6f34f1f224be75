"""Find runs of commit a11ee17, whose identities were hashes of the whole configuration.

Such a run is found by comparing its record with the command. It resumes in its old directory and with its old name.
"""

import copy
import hashlib
import json
import sys
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from convatlas.config.arguments import expanded, targets
from convatlas.config.public_names import public_name
from convatlas.data.legacy_fingerprint import legacy_fingerprint
from convatlas.data.module import ImageDataModule
from convatlas.errors import UnreadableError
from convatlas.record.directory import RunDirectory
from convatlas.record.identity import decisive_settings, initial_weights, without_effect_removed
from convatlas.utils.console import warn
from convatlas.utils.distributed import is_rank_zero

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
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.log_every_n_steps",
    "trainer.enable_progress_bar",
)
"""Keys that were not part of a11ee17's identities."""

DEFAULTS = Path(__file__).parent / "a11ee17_defaults.json"
"""The defaults of a11ee17's constructors by public name, including those of Lightning 2.6, torch 2.15 and timm 1.0."""


def find_run_of_before(run: RunDirectory, settings: Mapping[str, Any], data: ImageDataModule) -> RunDirectory | None:
    """Find the run of a11ee17 with the same settings and data as a new run.

    The data are compared by the rule of a11ee17, which ignores the content of masks.

    Args:
        run: The directory of the new run, which does not exist yet.
        settings: The resolved configuration of the new run.
        data: The data of the new run.

    Returns:
        The directory of the former run, or None.
    """
    name, data_name, seed = settings["model"]["name"], settings["data"]["name"], settings["seed"]
    attempt = "" if run.attempt == 1 else f"-a{run.attempt}"
    for path in sorted(run.path.parent.glob(f"{escape(name)}-{escape(data_name)}-????????-s{seed}{attempt}")):
        candidate = RunDirectory(path, run.attempt, run.identity)
        if not candidate.has_begun:
            continue
        try:
            recorded = candidate.config
            if not _was_written_before(recorded):
                if candidate.summary.get("identity") == run.identity:  # resumed by a newer version
                    return candidate
                continue
        except UnreadableError as error:
            if is_rank_zero():
                warn(f"{error}; it is not known whether that is this run, begun by an earlier version")
            continue
        if not _are_equal(recorded, settings):
            continue
        weights = initial_weights(settings["model"])
        if path.name.removesuffix(attempt) == former_run_id(recorded, legacy_fingerprint(data), *weights):
            if is_rank_zero():
                sys.stderr.write(
                    f"convatlas: {path} is this run, begun by an earlier version; it resumes under that name. Masks "
                    "and labels could not be compared, as that version did not record them\n"
                )
            return candidate
    return None


def recorded_settings(run: RunDirectory) -> dict[str, Any]:
    """Return the expanded configuration of a recorded run. Values that a11ee17 did not record come from ``DEFAULTS``.

    Raises:
        UnreadableError: The configuration is damaged.
    """
    try:
        recorded = run.config
    except UnreadableError as error:
        raise UnreadableError(
            f"{error}; without that file the run resumes, and its settings are not compared"
        ) from error
    if not _was_written_before(recorded):
        return recorded
    former: dict[str, dict[str, Any]] = json.loads(DEFAULTS.read_text(encoding="utf-8"))

    def defaults_of(target: str) -> Mapping[str, Any]:
        return former.get(public_name(target) or target, {})

    settings: dict[str, Any] = expanded(recorded, defaults_of)
    return settings


def former_run_id(config: Mapping[str, Any], *fingerprints: str) -> str:
    """Compute the run id of a11ee17, which contains a hash of the configuration without ``WITHOUT_EFFECT``."""
    decisive = copy.deepcopy(dict(config))
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


def _are_equal(recorded: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a recorded configuration equals that of the command.

    Constructors that the command does not name are not imported, and give false.
    """
    named, wanted = (targets(without_effect_removed(config)) for config in (recorded, settings))
    return named <= wanted and decisive_settings(recorded) == decisive_settings(settings)


def _was_written_before(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has a former name of a11ee17 as the ``_target_`` of its model."""
    model = config.get("model")
    target = model.get("_target_") if isinstance(model, dict) else None
    return isinstance(target, str) and public_name(target) not in (None, target)
