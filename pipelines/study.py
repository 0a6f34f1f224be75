"""Ask one question of several arms on the same seeds: run what is missing, and show what came out.

    convatlas study study=quickstart_depth
    convatlas study study=quickstart_depth dry_run=true
    convatlas study study=quickstart_depth num_workers=4 trainer.max_epochs=1
    convatlas study study=quickstart_depth cluster=gpu resources=one_gpu

Every run is an ordinary one: finished ones are not run again, interrupted ones go on. Overrides of `train` are for all
arms. A run that fails is named with its log and does not stop the others; the status is then 1. With cluster and
resources the missing runs become one SLURM array; the same command, given later, shows what is there by then.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import PositiveInt

from convatlas.cli import execute
from convatlas.config import compose_around_train, plain
from convatlas.console import print_fields, print_table
from convatlas.errors import UserError
from convatlas.report.run_record import RunReader, RunRecord
from convatlas.report.selection import is_run
from convatlas.run.directory import RunDirectory
from convatlas.run.environment import quiet_libraries
from convatlas.run.launch import train_command
from convatlas.run.lock import run_state
from convatlas.studies.design import Study, read_study
from convatlas.studies.evaluations import plan_evaluations
from convatlas.studies.evaluations import results as evaluation_results
from convatlas.studies.outcome import Outcome, judge
from convatlas.studies.plan import Plan, owner, plan_study
from convatlas.studies.processes import Command, run_commands
from convatlas.studies.tables import findings_table, results_table
from convatlas.studies.values import value_of_evaluation, value_of_run
from convatlas.submission import submit_runs

OWN_KEYS = ("study", "cluster", "resources", "num_workers", "array_limit", "dry_run", "output", "format")
TYPES = {"num_workers": PositiveInt, "array_limit": PositiveInt | None, "dry_run": bool, "output": str | None}


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/study.yaml``; ``train`` holds the overrides that are for all arms."""
    return compose_around_train(name, overrides, OWN_KEYS)


def study(config: DictConfig) -> dict[str, Any]:
    """Run what is missing of a study and write down what came out."""
    quiet_libraries()
    design = read_study(plain(config.study))
    if ("cluster" in config) != ("resources" in config):
        raise UserError("cluster and resources: give both to submit the missing runs, or neither to run them here")
    plan = plan_study(design, config.train)
    output = Path(config.output or f"studies/{design.name}")
    result: dict[str, Any] = {
        "study": design.name,
        "runs": len(plan.runs),
        "missing": [str(run.path) for run in plan.missing],
        "failed": [],
        "submitted": None,
    }
    if config.dry_run:
        return result
    if "cluster" in config and plan.missing:
        lines = [run.overrides for run in plan.missing]
        result["submitted"] = submit_runs(
            [],
            lines,
            instantiate(config.cluster),
            instantiate(config.resources),
            array=design.name,
            limit=config.array_limit,
            opened=plan.opened,
        )
    else:
        result["failed"] += _train(plan, output, config.num_workers)
    result["failed"] += _evaluate(design, plan, output, config.num_workers)
    result["missing"] = [str(run.path) for run in plan.missing]
    outcome = _outcome(design, plan, output)
    result["results"] = [[cell.text for cell in row.cells] for row in results_table(outcome, {}).rows]
    result["columns"] = results_table(outcome, {}).columns
    result["findings"] = [[cell.text for cell in row.cells] for row in findings_table(outcome).rows]
    result["finding_columns"] = findings_table(outcome).columns
    return result


def _train(plan: Plan, output: Path, num_workers: int) -> list[dict[str, Any]]:
    logs = output / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    commands = []
    for run in plan.missing:
        if (busy := owner(run)) is not None:
            sys.stderr.write(f"convatlas: {run.path} is {busy}; left to it\n")
            continue
        words = tuple(train_command(run.overrides))
        commands.append(Command(run.directory.run_id, words, logs / f"{run.directory.run_id}.log"))
    return _run(commands, num_workers)


def _evaluate(design: Study, plan: Plan, output: Path, num_workers: int) -> list[dict[str, Any]]:
    found = {item.folder: item for item in plan_evaluations(design, plan, output).values() if item.result is None}
    (output / "evaluations").mkdir(parents=True, exist_ok=True)
    return _run([item.command for item in found.values()], num_workers)


def _run(commands: Sequence[Command], num_workers: int) -> list[dict[str, Any]]:
    failed: list[dict[str, Any]] = []
    done = 0

    def ended(command: Command, status: int) -> None:
        nonlocal done
        done += 1
        outcome = f"failed with status {status}: {command.log}" if status else "done"
        sys.stderr.write(f"convatlas: {done} of {len(commands)}: {command.name} {outcome}\n")
        if status:
            failed.append({"name": command.name, "status": status, "log": str(command.log)})

    run_commands(commands, num_workers, ended)
    return failed


def _outcome(design: Study, plan: Plan, output: Path) -> Outcome:
    records = {run.path: _read(run.path) for run in plan.runs if is_run(run.path)}
    evaluations = evaluation_results(plan_evaluations(design, plan, output))
    values = {}
    for cell, runs in plan.cells.items():
        if design.arms[cell.arm].evaluated:
            found = {key[1]: value_of_evaluation(said, design) for key, said in evaluations.items() if key[0] == cell}
        else:
            finished = {(seed,): run.path for seed, run in runs.items() if run.directory.finished}
            found = {block: value_of_run(records[path], design) for block, path in finished.items()}
        values[cell] = {block: value for block, value in found.items() if value is not None}
    return judge(design, values)


def _read(path: Path) -> RunRecord:
    return RunReader(path, lambda path: run_state(RunDirectory(path))).read()


def show(result: Mapping[str, Any]) -> None:
    """Print what came out."""
    print_fields({"runs": f"{result['runs']}, {len(result['missing'])} missing"})
    if "results" in result:
        print_table(result["columns"], result["results"])
        print_table(result["finding_columns"], result["findings"])
    else:
        for path in result["missing"]:
            print_fields({"missing": path})


if __name__ == "__main__":
    execute(study, show, TYPES, compose, lambda result: 1 if result["failed"] else 0)
