"""A sweep on the disk: what it searches, and the storage that its workers share."""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from pydantic import NonNegativeInt

from convatlas.config.arguments import reduced, targets
from convatlas.config.composition import parse_overrides
from convatlas.config.public_names import public_name
from convatlas.config.stored import SWEEP, check_stored
from convatlas.config.value_types import Name, check_value
from convatlas.errors import UnreadableError, UserError
from convatlas.record.lock import Watch
from convatlas.sweep.objective import Objective
from convatlas.sweep.space import Parameter, Space
from convatlas.sweep.storage import JOURNAL, VARIABLE, Mutex, address, open_storage, reading_trials
from convatlas.utils.console import warn
from convatlas.utils.files import FORMAT, check_format, read_mapping, write_atomic

FILE = "sweep.yaml"
IDENTITY = ("space", "sampler", "pruner", "objective")
"""What makes a sweep, beside what all its trials share."""
ENTRIES: Mapping[str, Any] = {
    "space": dict[str, dict[str, Any]],
    "sampler": dict[str, Any],
    "pruner": dict[str, Any],
    "objective": list[Objective],
    "train": list[str],
    "storage": str | None,
    "study": str,
}
"""The entries of ``sweep.yaml`` with their types."""
NUM_TRIALS, MAX_RETRIES = "num_trials", "max_retries"
"""The study's attributes: how many trials there are to be, and how often one is taken up after its worker's death."""
WORKER, DEATHS, STOPPED = "worker", "deaths", "stopped"
"""A trial's attributes: who does it; how many workers died while they did; whether its worker was told to stop."""
REASON, RUN = "reason", "run"
"""And why it failed; the name of its run."""
ATTRIBUTES: Mapping[str, Any] = {WORKER: Name, DEATHS: NonNegativeInt, STOPPED: bool, REASON: str, RUN: Name}
"""The attributes of a trial with their types."""


@dataclass(frozen=True)
class Sweep:
    """A sweep that is open.

    Args:
        directory: ``<root>/<name>-<hash>``; its runs are in ``runs``.
        space: What is varied.
        objectives: What is looked for: one figure, or several.
        train: Overrides that all trials share.
        study: The trials.
        mutex: The lock of the study's storage.
        sampler_settings: What a trial's sampler is made of.
        watch: What this process knows of the workers' locks.
    """

    directory: Path
    space: Space
    objectives: list[Objective]
    train: list[str]
    study: optuna.Study
    mutex: Mutex
    sampler_settings: Mapping[str, Any]
    watch: Watch = field(default_factory=Watch)

    @property
    def workers(self) -> Path:
        """Where each worker has a folder with its lock."""
        return self.directory / "workers"

    def sampler(self, number: int) -> BaseSampler:
        """The sampler of a trial: its random numbers are the trial's own, whichever worker draws them."""
        settings = dict(self.sampler_settings)
        if (seed := settings.get("seed")) is not None:
            settings["seed"] = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        sampler: BaseSampler = instantiate(settings, _convert_="all")
        return sampler


def write_sweep(directory: Path, settings: Mapping[str, Any], url: str | None) -> None:
    """Write down what a sweep is, for its workers.

    Its study has a name of its own: a database may hold the studies of many people and roots, and those whose directory
    was deleted.

    Args:
        directory: The sweep's; made if need be.
        settings: ``space``, ``sampler``, ``pruner``, ``objective`` and ``train``, resolved.
        url: The address of its database; None: a journal.

    Raises:
        UserError: The directory cannot be written, its file is damaged, or the sweep has its trials elsewhere.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open_storage(directory, url)[1]():
            known = read_sweep(directory) if (directory / FILE).is_file() else {}
            study = known.get("study", f"{directory.name}-{secrets.token_hex(4)}")
            settings = {"format": FORMAT, **settings, "storage": address(url), "study": study}
            if known.get("storage", settings["storage"]) != settings["storage"]:
                raise UserError(f"storage: the trials of {directory} are in {known['storage'] or 'its journal.log'}")
            write_atomic(directory / FILE, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"root={directory.parent}: cannot be written ({error.strerror})") from error


def read_sweep(directory: Path) -> dict[str, Any]:
    """Read the file of a sweep, as it is.

    Raises:
        UserError: There is none, it is damaged, or written by a newer ConvAtlas.
    """
    path = directory / FILE
    if not path.is_file():
        raise UserError(f"{directory}: no sweep; expected a directory with {FILE}")
    settings = read_mapping(path)
    check_format(path, settings)
    if missing := ENTRIES.keys() - settings.keys():
        raise UnreadableError(f"{path}: damaged, expected the entries {', '.join(sorted(missing))}")
    for key, expected in ENTRIES.items():
        check_value(f"{path}: {key}", settings[key], expected, "")
    if not settings["objective"]:
        raise UnreadableError(f"{path}: damaged, expected at least one objective")
    return settings


def find_sweep_of_before(directory: Path, settings: Mapping[str, Any], train: Sequence[str]) -> Path | None:
    """Look beside the directory of a sweep that does not exist for the same sweep under the name of an earlier version.

    Args:
        directory: Where the sweep would be: ``<root>/<name>-<hash>``.
        settings: The values of ``IDENTITY``.
        train: Overrides that all trials share.
    """
    for path in sorted(directory.parent.glob(f"{escape(directory.name.rpartition('-')[0])}-????????")):
        if not (path / FILE).is_file():
            continue
        try:
            recorded = read_sweep(path)
        except UnreadableError as error:
            warn(f"{error}; it is not known whether that is this sweep, begun by an earlier version")
            continue
        own = {key: recorded[key] for key in IDENTITY}
        if recorded["train"] != list(train) or not targets(own) <= targets(dict(settings)):
            continue  # constructors that the command does not name are not even imported
        own = check_stored(own, SWEEP, str(path / FILE))
        if reduced(own) != reduced(dict(settings)):
            continue
        names = [str(node["_target_"]) for node in recorded["space"].values()]
        if any(public_name(name) not in (None, name) for name in names):
            return path
    return None


def _check_overrides(lines: list[str], path: Path) -> None:
    """Refuse overrides from a file that name something else than a public name: composing them would import it.

    Raises:
        UserError: One of them is no override, or names such a thing.
    """
    for override in parse_overrides(lines):
        value = None if override.is_delete() else override.value()
        named = {str(value)} if override.key_or_group.endswith("_target_") else targets(value)
        if foreign := sorted(name for name in named if public_name(name) is None):
            raise UserError(f"{path}: train: {override.input_line} would construct {foreign[0]}")


def _check_trials(study: optuna.Study, directions: Sequence[str], place: object) -> None:
    """Check what is made of the trials on record.

    Raises:
        UnreadableError: They are damaged.
    """
    try:
        if [direction.name.lower() for direction in study.directions] != directions:
            raise UserError("expected the directions of the objectives")
        for trial in study.get_trials(deepcopy=False):
            values = trial.values
            are_numbers = isinstance(values, list) and list(map(type, values)) == [float] * len(directions)
            if not are_numbers and (values is not None or trial.state == TrialState.COMPLETE):
                raise UserError(f"values={values}: expected a number for each objective")
            for name, expected in ATTRIBUTES.items():
                if name in trial.user_attrs:
                    check_value(name, trial.user_attrs[name], expected, "")
    except UserError as error:
        raise UnreadableError(f"{place}: damaged, trials: {error}") from error


def open_sweep(directory: Path) -> Sweep:
    """Open a sweep that was written down; the address of its database is in the environment.

    Args:
        directory: The sweep's.

    Raises:
        UserError: There is none, it is damaged or written by a newer ConvAtlas, or its storage cannot be opened.
    """
    settings = read_sweep(directory)
    settings |= check_stored({key: settings[key] for key in IDENTITY}, SWEEP, str(directory / FILE))
    _check_overrides(settings["train"], directory / FILE)
    objectives = [Objective(**entry) for entry in settings["objective"]]
    url = os.environ.get(VARIABLE) if settings["storage"] else None
    pruner = instantiate(settings["pruner"], _convert_="all")
    directions = [objective.direction for objective in objectives]
    place = address(url) or directory / JOURNAL
    storage, mutex = open_storage(directory, url)
    with reading_trials(place):
        study = optuna.create_study(
            storage=storage, study_name=settings["study"], directions=directions, pruner=pruner, load_if_exists=True
        )
    _check_trials(study, directions, place)
    parameters: dict[str, Parameter] = instantiate(OmegaConf.create(settings["space"]), _convert_="all")
    return Sweep(
        directory, Space(parameters), objectives, settings["train"], study, mutex, OmegaConf.create(settings["sampler"])
    )
