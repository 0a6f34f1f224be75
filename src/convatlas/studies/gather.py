"""The figures of a study as far as they are there."""

from collections.abc import Mapping
from pathlib import Path

from convatlas.record.reader import RunRecord
from convatlas.studies.design import Cell, Study
from convatlas.studies.evaluations import Evaluation
from convatlas.studies.outcome import Block
from convatlas.studies.plan import Plan
from convatlas.studies.values import Value, value_of_evaluation, value_of_run


def gather(
    study: Study,
    plan: Plan,
    evaluations: Mapping[tuple[Cell, Block], Evaluation],
    records: Mapping[Path, RunRecord],
) -> dict[Cell, dict[Block, Value]]:
    """Read the figures of every cell: of its evaluations, if it has some, else of its finished runs.

    Args:
        study: The study.
        plan: Its runs.
        evaluations: Its evaluations, done or not.
        records: The runs that have begun and can be read.

    Raises:
        UserError: A run or an evaluation has no such metric.
    """
    values: dict[Cell, dict[Block, Value]] = {}
    for cell, runs in plan.cells.items():
        found: dict[Block, Value | None] = {}
        for block in study.blocks(cell.arm):
            if study.arms[cell.arm].evaluated:
                evaluation = evaluations.get((cell, block))
                if evaluation is not None and (said := evaluation.result) is not None:
                    found[block] = value_of_evaluation(said, study)
            elif runs[block[0]].finished and runs[block[0]].path in records:
                found[block] = value_of_run(records[runs[block[0]].path], study)
        values[cell] = {block: value for block, value in found.items() if value is not None}
    return values
