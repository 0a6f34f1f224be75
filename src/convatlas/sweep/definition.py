"""A sweep on the disk: what it searches, and the storage that its workers share."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from optuna.samplers import BaseSampler

from convatlas.errors import UnreadableError, UserError
from convatlas.jsonio import FORMAT, check_format, read_mapping, write_atomic
from convatlas.sweep.objective import Objective
from convatlas.sweep.space import Parameter, Space
from convatlas.sweep.storage import VARIABLE, Mutex, address, open_storage

FILE = "sweep.yaml"
ENTRIES = {"space", "sampler", "pruner", "objective", "train", "storage", "study"}
"""What the file holds."""
NUM_TRIALS, MAX_RETRIES = "num_trials", "max_retries"
"""The study's attributes: how many trials there are to be, and how often one is taken up after its worker's death."""
WORKER, DEATHS, STOPPED = "worker", "deaths", "stopped"
"""A trial's attributes: who does it; how many workers died while they did; whether its worker was told to stop."""
REASON, RUN = "reason", "run"
"""And why it failed; the name of its run."""


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
    """

    directory: Path
    space: Space
    objectives: list[Objective]
    train: list[str]
    study: optuna.Study
    mutex: Mutex
    sampler_settings: Mapping[str, Any]

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
        UserError: The directory cannot be written, or the sweep has its trials elsewhere.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open_storage(directory, url)[1]():
            known = _read(directory) if (directory / FILE).is_file() else {}
            study = known.get("study", f"{directory.name}-{secrets.token_hex(4)}")
            settings = {"format": FORMAT, **settings, "storage": address(url), "study": study}
            if known.get("storage", settings["storage"]) != settings["storage"]:
                raise UserError(f"storage: the trials of {directory} are in {known['storage'] or 'its journal.log'}")
            write_atomic(directory / FILE, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise UserError(f"root={directory.parent}: cannot be written ({error.strerror})") from error


def open_sweep(directory: Path) -> Sweep:
    """Open a sweep that was written down; the address of its database is in the environment.

    Args:
        directory: The sweep's.

    Raises:
        UserError: There is none, it is damaged or written by a newer ConvAtlas, or its storage cannot be opened.
    """
    if not (directory / FILE).is_file():
        raise UserError(f"{directory}: no sweep; expected a directory with {FILE}")
    settings = _read(directory)
    objectives = [Objective(**entry) for entry in settings["objective"]]
    storage, mutex = open_storage(directory, os.environ.get(VARIABLE) if settings["storage"] else None)
    study = optuna.create_study(
        storage=storage,
        study_name=settings["study"],
        directions=[objective.direction for objective in objectives],
        pruner=instantiate(settings["pruner"], _convert_="all"),
        load_if_exists=True,
    )
    parameters: dict[str, Parameter] = instantiate(OmegaConf.create(settings["space"]), _convert_="all")
    return Sweep(
        directory, Space(parameters), objectives, settings["train"], study, mutex, OmegaConf.create(settings["sampler"])
    )


def _read(directory: Path) -> dict[str, Any]:
    path = directory / FILE
    settings = read_mapping(path)
    check_format(path, settings)
    if missing := ENTRIES - settings.keys():
        raise UnreadableError(f"{path}: damaged, expected the entries {', '.join(sorted(missing))}")
    return settings
