"""Read and write a sweep: its definition in ``sweep.yaml`` and the storage that its workers share."""

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
"""Settings that identify a sweep, together with the overrides that all trials share."""
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
"""Attributes of the Optuna study: the number of trials, and how often a trial is continued after its worker died."""
WORKER, DEATHS, STOPPED = "worker", "deaths", "stopped"
"""Attributes of a trial: its worker, the number of workers that died during it, whether it was told to stop."""
REASON, RUN = "reason", "run"
"""More attributes of a trial: why it failed, and the name of its run."""
ATTRIBUTES: Mapping[str, Any] = {WORKER: Name, DEATHS: NonNegativeInt, STOPPED: bool, REASON: str, RUN: Name}
"""The attributes of a trial with their types."""


@dataclass(frozen=True)
class Sweep:
    """An open sweep.

    Args:
        directory: ``<root>/<name>-<hash>``; its runs are in ``runs``.
        space: The search space.
        objectives: One or several.
        train: Overrides that all trials share.
        study: The Optuna study, which holds the trials.
        mutex: Lock of the storage of the study.
        sampler_settings: Settings of the sampler, which each trial builds anew.
        watch: Finds out which workers are alive from their locks.
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
        """The folder that holds a folder with a lock for each worker."""
        return self.directory / "workers"

    def sampler(self, number: int) -> BaseSampler:
        """Build the sampler of a trial. Its random numbers depend on the trial and not on the worker."""
        settings = dict(self.sampler_settings)
        if (seed := settings.get("seed")) is not None:
            settings["seed"] = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        sampler: BaseSampler = instantiate(settings, _convert_="all")
        return sampler


def write_sweep(directory: Path, settings: Mapping[str, Any], url: str | None) -> None:
    """Write the definition of a sweep, which its workers read.

    The study gets a unique name, because a database may hold the studies of several users and roots, and studies
    whose directory was deleted.

    Args:
        directory: The directory of the sweep; created if it does not exist.
        settings: ``space``, ``sampler``, ``pruner``, ``objective`` and ``train``, resolved.
        url: Address of the database; None: a journal in the directory.

    Raises:
        UserError: The directory cannot be written, its file is damaged, or the trials are in another storage.
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
    """Read the definition of a sweep without resolving it.

    Raises:
        UserError: The file is absent, damaged, or written by a newer ConvAtlas.
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
    """Look for the directory that an earlier version gave to the same sweep.

    Args:
        directory: The present directory of the sweep, ``<root>/<name>-<hash>``, which does not exist.
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
            continue  # constructors that the command does not name are not imported
        own = check_stored(own, SWEEP, str(path / FILE))
        if reduced(own) != reduced(dict(settings)):
            continue
        names = [str(node["_target_"]) for node in recorded["space"].values()]
        if any(public_name(name) not in (None, name) for name in names):
            return path
    return None


def _check_overrides(lines: list[str], path: Path) -> None:
    """Refuse overrides of a file that name an object outside the public names, because composing would import it.

    Raises:
        UserError: A line is no override, or names such an object.
    """
    for override in parse_overrides(lines):
        value = None if override.is_delete() else override.value()
        named = {str(value)} if override.key_or_group.endswith("_target_") else targets(value)
        if foreign := sorted(name for name in named if public_name(name) is None):
            raise UserError(f"{path}: train: {override.input_line} would construct {foreign[0]}")


def _check_trials(study: optuna.Study, directions: Sequence[str], place: object) -> None:
    """Check the types of the recorded trials.

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
    """Open a sweep. The address of a database is read from the environment.

    Args:
        directory: The directory of the sweep.

    Raises:
        UserError: The sweep is absent, damaged or written by a newer ConvAtlas, or its storage cannot be opened.
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
