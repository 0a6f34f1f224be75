"""Which runs a study consists of, before any of them exists."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from convatlas.config.composition import check_config, compose, overridden_keys
from convatlas.data.module import ImageDataModule
from convatlas.errors import DivergedError, UnreadableError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import run_state
from convatlas.studies.design import Cell, Study
from convatlas.training.plan import TYPES, check_metric, plan_run

OWN_KEYS = {"seed": "study.seeds says which", "run.fresh": "a study goes on with its runs; expected run.attempt=2"}
"""Keys of ``train`` that a study does not leave to its arms, and why."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of a study.

    Attributes:
        directory: Its directory, which need not exist.
        overrides: What follows ``convatlas train``.
    """

    directory: RunDirectory
    overrides: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the run is."""
        return self.directory.path

    @property
    def damage(self) -> str | None:
        """What keeps the run from being read or trained; None where nothing does."""
        try:
            run_state(self.directory)
        except UnreadableError as error:
            return str(error)
        return None

    @property
    def finished(self) -> bool:
        """Whether the run came to its planned end and can be read."""
        return self.damage is None and self.directory.finished

    @property
    def diverged(self) -> bool:
        """Whether its loss was no finite number at some step: the same command comes to the same end."""
        reason = "" if self.damage else self.directory.summary.get("reason", "")
        return str(reason).startswith(f"{DivergedError.__name__}: ")


@dataclass(frozen=True)
class Plan:
    """The runs of a study.

    Attributes:
        cells: For each cell its runs by seed; cells may share them.
        opened: The images that were opened, as in ``plan_run``.
    """

    cells: Mapping[Cell, Mapping[int, PlannedRun]]
    opened: dict[str, ImageDataModule] = field(default_factory=dict)

    @property
    def runs(self) -> list[PlannedRun]:
        """Every run once, seed by seed, so that what is there early covers all arms."""
        seeds = dict.fromkeys(seed for runs in self.cells.values() for seed in runs)
        found = [runs[seed] for seed in seeds for runs in self.cells.values()]
        return list({run.path: run for run in found}.values())

    @property
    def missing(self) -> list[PlannedRun]:
        """The runs that are still to come to an end: those that diverged have, damaged ones cannot."""
        return [run for run in self.runs if not (run.damage or run.finished or run.diverged)]


def plan_study(study: Study, command_line: Sequence[str]) -> Plan:
    """Compose and check every run of a study.

    Args:
        study: The study.
        command_line: Further overrides of ``train`` for all arms, which come last.

    Raises:
        UserError: Overrides that do not compose, or two arms that are the same; names the arms.
    """
    cells: dict[Cell, dict[int, PlannedRun]] = {}
    plan = Plan(cells)
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


def _plan_run(
    config: DictConfig, overrides: Sequence[str], seed: int, opened: dict[str, ImageDataModule]
) -> PlannedRun:
    own = config.copy()
    own.seed = seed
    directory, _ = plan_run(own, opened)
    return PlannedRun(directory, (*overrides, f"seed={seed}"))


def _check_different(study: Study, plan: Plan) -> None:
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
