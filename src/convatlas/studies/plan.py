"""The runs and evaluations that a study consists of, done or not."""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from convatlas.config.composition import check_config, compose, overridden_keys, quoted
from convatlas.data.module import ImageDataModule
from convatlas.errors import DivergedError, UnreadableError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.files import read_evaluation
from convatlas.record.lock import run_state
from convatlas.studies.design import Block, Cell, Study
from convatlas.training.plan import TYPES, check_metric, plan_run
from convatlas.utils.files import dumps

OWN_KEYS = {"seed": "expected study.seeds instead", "run.fresh": "a study resumes its runs; expected run.attempt=2"}
"""Keys of ``train`` that arms may not set, and why."""


@dataclass(frozen=True)
class StudyRun:
    """A run of a study.

    Attributes:
        directory: Its directory, which need not exist.
        overrides: The arguments of ``convatlas train``.
    """

    directory: RunDirectory
    overrides: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The directory of the run."""
        return self.directory.path

    @property
    def damage(self) -> str | None:
        """The error that keeps the run from being read or trained; None if there is none."""
        try:
            run_state(self.directory)
        except UnreadableError as error:
            return str(error)
        return None

    @property
    def finished(self) -> bool:
        """Whether the run reached its planned end and can be read."""
        return self.damage is None and self.directory.finished

    @property
    def diverged(self) -> bool:
        """Whether the loss became non-finite. The same command would diverge again."""
        reason = "" if self.damage else self.directory.summary.get("reason", "")
        return str(reason).startswith(f"{DivergedError.__name__}: ")


@dataclass(frozen=True)
class StudyPlan:
    """The runs of a study.

    Attributes:
        cells: The runs of each cell by seed; cells may share runs.
        opened: The data modules that were opened, as in ``plan_run``.
    """

    cells: Mapping[Cell, Mapping[int, StudyRun]]
    opened: dict[str, ImageDataModule] = field(default_factory=dict)

    @property
    def runs(self) -> list[StudyRun]:
        """Every run once, seed by seed, so that the first finished runs cover all arms."""
        seeds = dict.fromkeys(seed for runs in self.cells.values() for seed in runs)
        found = [runs[seed] for seed in seeds for runs in self.cells.values()]
        return list({run.path: run for run in found}.values())

    @property
    def missing(self) -> list[StudyRun]:
        """The runs to train: those that are neither finished nor diverged nor damaged."""
        return [run for run in self.runs if not (run.damage or run.finished or run.diverged)]


def plan_study(study: Study, command_line: Sequence[str]) -> StudyPlan:
    """Compose and check every run of a study.

    Args:
        study: The study.
        command_line: Further overrides of ``train`` for all arms, applied last.

    Raises:
        UserError: Overrides do not compose, or two arms are the same; the message names the arms.
    """
    cells: dict[Cell, dict[int, StudyRun]] = {}
    plan = StudyPlan(cells)
    for cell in study.cells:
        overrides = [*study.overrides, *study.arms[cell.arm].overrides]
        if study.factor is not None:
            overrides.append(f"{study.factor.key}={_written(cell.value)}")
        overrides += command_line
        try:
            for key in overridden_keys(overrides) & OWN_KEYS.keys():
                raise UserError(f"{key}: {OWN_KEYS[key]}")
            config = compose("train", overrides)
            check_config(config, TYPES)
            check_metric("study.metric", study.metric, config)
            cells[cell] = {seed: _plan_run(config, overrides, seed, plan.opened) for seed in study.seeds}
        except UserError as error:
            raise UserError(f"study.arms.{cell.arm}: {error}") from error
    _check_different(study, plan)
    return plan


def _plan_run(config: DictConfig, overrides: Sequence[str], seed: int, opened: dict[str, ImageDataModule]) -> StudyRun:
    own = config.copy()
    own.seed = seed
    directory, _ = plan_run(own, opened)
    return StudyRun(directory, (*overrides, f"seed={seed}"))


def _check_different(study: Study, plan: StudyPlan) -> None:
    known: dict[tuple[object, ...], Cell] = {}
    for cell, runs in plan.cells.items():
        arm = study.arms[cell.arm]
        key = (*(run.path for run in runs.values()), tuple(arm.evaluate or ()), arm.evaluated, arm.members)
        other = known.setdefault(key, cell)
        if other != cell:
            raise UserError(
                f"study.arms: '{study.label(other)}' and '{study.label(cell)}' are the same run, "
                f"{next(iter(runs.values())).path}; expected overrides that tell them apart"
            )


def _written(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of finished runs.

    Attributes:
        name: Its name in messages.
        folder: The folder of its result.
        overrides: The arguments of ``convatlas evaluate``.
    """

    name: str
    folder: Path
    overrides: tuple[str, ...]

    @property
    def result(self) -> dict[str, Any] | None:
        """The result; None if the evaluation was not run yet."""
        files = sorted(self.folder.glob("*.json"))
        return read_evaluation(files[0]) if files else None

    @property
    def command(self) -> list[str]:
        """The command that runs the evaluation."""
        return [sys.executable, "-m", "convatlas", "evaluate", *self.overrides]


def plan_evaluations(study: Study, plan: StudyPlan, output: Path) -> dict[tuple[Cell, Block], Evaluation]:
    """Plan the evaluations whose runs are finished.

    Args:
        study: The study.
        plan: Its runs.
        output: The folder of the study.
    """
    found = {}
    for cell, runs in plan.cells.items():
        arm = study.arms[cell.arm]
        for block in study.blocks(cell.arm) if arm.evaluated else ():
            members = [runs[seed] for seed in block]
            if all(run.finished for run in members):
                folder = output / "evaluations" / _identity(members, arm.evaluate or [])
                seeds = ", ".join(map(str, block))
                name = f"{study.label(cell)}, seed{'s' * (len(block) > 1)} {seeds}"
                paths = [str(run.path) for run in members]
                overrides = (f"run={quoted(paths)}", *(arm.evaluate or ()), f"output={quoted(str(folder))}")
                found[cell, block] = Evaluation(name, folder, overrides)
    return found


def _identity(runs: list[StudyRun], overrides: list[str]) -> str:
    """A hash of the runs and overrides. A run that was trained again is evaluated again."""
    about = [[run.directory.run_id, run.directory.summary["ended"]] for run in runs]
    return hashlib.sha256(dumps([about, overrides]).encode()).hexdigest()[:12]
