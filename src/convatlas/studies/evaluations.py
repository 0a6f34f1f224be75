"""The evaluations that arms of a study ask for: of finished runs, by ``convatlas evaluate``, each done once."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convatlas.config.composition import quoted
from convatlas.record.files import read_evaluation
from convatlas.studies.design import Cell, Study
from convatlas.studies.outcome import Block
from convatlas.studies.plan import Plan, PlannedRun
from convatlas.utils.files import dumps


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of finished runs.

    Attributes:
        name: What it is called in messages.
        folder: Where its result goes.
        overrides: What follows ``convatlas evaluate``.
    """

    name: str
    folder: Path
    overrides: tuple[str, ...]

    @property
    def result(self) -> dict[str, Any] | None:
        """What it said; None if it was not done yet."""
        files = sorted(self.folder.glob("*.json"))
        return read_evaluation(files[0]) if files else None

    @property
    def command(self) -> list[str]:
        """What does it."""
        return [sys.executable, "-m", "convatlas", "evaluate", *self.overrides]


def plan_evaluations(study: Study, plan: Plan, output: Path) -> dict[tuple[Cell, Block], Evaluation]:
    """The evaluations of the arms that have some, as far as their runs are finished.

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


def _identity(runs: list[PlannedRun], overrides: list[str]) -> str:
    """Another training of the same run is another evaluation."""
    about = [[run.directory.run_id, run.directory.summary["ended"]] for run in runs]
    return hashlib.sha256(dumps([about, overrides]).encode()).hexdigest()[:12]
