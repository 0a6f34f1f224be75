"""Ask one question of several arms on the same seeds: run what is missing, and show what came out.

    convatlas study study=quickstart_depth
    convatlas study study=quickstart_depth dry_run=true
    convatlas study study=quickstart_depth num_workers=4 trainer.max_epochs=1
    convatlas study study=quickstart_depth cluster=gpu resources=one_gpu

Finished runs are not run again, and interrupted runs are continued. Overrides of `train` hold for all arms. A run that
fails is named with its log and does not stop the others; the exit status is then 1. With cluster and resources, the
missing runs become one SLURM array; the same command shows the results later.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import PositiveInt

from convatlas.cli import execute
from convatlas.config.composition import compose_around_train, plain
from convatlas.errors import UserError
from convatlas.jobs.submission import submit_runs
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import run_state
from convatlas.record.reader import RunReader, RunRecord
from convatlas.report.selection import is_run
from convatlas.studies.design import Study, read_study
from convatlas.studies.outcome import judge
from convatlas.studies.page import as_data, write_study
from convatlas.studies.plan import StudyPlan, plan_evaluations, plan_study
from convatlas.studies.tables import findings_table, results_table
from convatlas.studies.values import gather
from convatlas.studies.workers import Workers
from convatlas.training.trainer import quiet_libraries
from convatlas.utils.console import print_fields, print_table, warn_left_out
from convatlas.utils.files import read_each

TYPES = {"num_workers": PositiveInt, "array_limit": PositiveInt | None, "dry_run": bool, "output": str | None}
"""The types of the keys of ``study``."""


def study(config: DictConfig) -> dict[str, Any]:
    """Run the missing trainings and evaluations of a study, and write its outcome.

    Args:
        config: From ``compose_around_train``.

    Returns:
        ``runs``: each with ``run`` (the directory), ``state`` and ``overrides``; ``failed``: commands with their
        ``status`` and ``log``; ``submitted``: as ``submit_runs``, or None; and, except in a dry run, ``files``,
        ``outcome`` and the ``tables`` of it.

    Raises:
        UserError: A mistake in the study, in an arm's overrides, in data or resources.
        Preempted: A signal was received. The trainings have saved a checkpoint, and the same command continues.
    """
    quiet_libraries()
    design = read_study(plain(config.study))
    if ("cluster" in config) != ("resources" in config):
        raise UserError("cluster and resources: give both to submit the missing runs, or neither to run them here")
    plan = plan_study(design, config.train)
    output = Path(config.output or f"studies/{design.name}")
    failed: list[dict[str, Any]] = []
    submitted = None
    if "cluster" in config and plan.missing:
        submitted = submit_runs(
            [],
            [run.overrides for run in plan.missing],
            instantiate(config.cluster),
            instantiate(config.resources),
            array=design.name,
            limit=config.array_limit,
            dry_run=config.dry_run,
            opened=plan.opened,
        )
    if not config.dry_run:
        workers = Workers(output / "logs", config.num_workers)
        if submitted is None:
            failed += workers.train(plan)
        failed += workers.evaluate(plan_evaluations(design, plan, output).values())
    states = [
        {
            "run": str(run.path),
            "state": "damaged" if run.damage else run_state(run.directory),
            "overrides": list(run.overrides),
        }
        for run in plan.runs
    ]
    result = {"study": design.name, "runs": states, "failed": failed, "submitted": submitted}
    return result if config.dry_run else result | _outcome(design, plan, config.train, output)


def _outcome(design: Study, plan: StudyPlan, command_line: Sequence[str], output: Path) -> dict[str, Any]:
    found, damages = read_each([run.path for run in plan.runs if is_run(run.path)], _read)
    warn_left_out(damages)
    records = {record.path: record for record in found}
    outcome = judge(design, gather(design, plan, plan_evaluations(design, plan, output), records))
    of_cells = {
        cell: [records[run.path] for run in runs.values() if run.path in records] for cell, runs in plan.cells.items()
    }
    return {
        "files": {
            name: str(path) for name, path in write_study(outcome, of_cells, command_line, output, damages).items()
        },
        "tables": [
            {
                "columns": table.columns,
                "numbers": [name for name, numeric in zip(table.columns, table.numeric, strict=True) if numeric],
                "rows": [[cell.text for cell in row.cells] for row in table.rows],
            }
            for table in (results_table(outcome, {}), findings_table(outcome))
        ],
        "outcome": as_data(outcome),
    }


def _read(path: Path) -> RunRecord:
    return RunReader(path, lambda path: run_state(RunDirectory(path))).read()


def show(result: Mapping[str, Any]) -> None:
    """Print the missing runs and the outcome."""
    missing = [run for run in result["runs"] if run["state"] != "finished"]
    sys.stdout.write(f"{len(result['runs'])} runs, {len(missing)} not finished\n")
    for run in missing:
        print_fields({run["run"]: run["state"]})
    if result["submitted"]:
        jobs = [entry["job"] for entry in result["submitted"]["runs"] if entry["job"]]
        told = f"{len(jobs)} runs, jobs {jobs[0]} to {jobs[-1]}" if jobs else "nothing"
        print_fields({"submitted": told, "command": result["submitted"]["command"]})
    for entry in result["failed"]:
        print_fields({"failed": f"{entry['name']} with status {entry['status']}: {entry['log']}"})
    for table in result.get("tables", ()):
        if table["rows"]:
            sys.stdout.write("\n")
            print_table(table["columns"], table["rows"], table["numbers"])
    if "files" in result:
        sys.stdout.write("\n")
        print_fields({name: result["files"][name] for name in ("page", "markdown", "data")})


if __name__ == "__main__":
    execute(study, show, TYPES, compose_around_train, lambda result: 1 if result["failed"] else 0)
