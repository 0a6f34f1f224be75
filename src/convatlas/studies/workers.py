"""Run the trainings and evaluations of a study on this machine, several at a time, each with a log."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from convatlas.errors import UserError
from convatlas.jobs.launch import train_command
from convatlas.jobs.supervisor import Command, run_commands
from convatlas.record.lock import Watch
from convatlas.studies.plan import Evaluation, StudyPlan


class Workers:
    """Runs the missing trainings and evaluations.

    Args:
        logs: The folder of the logs, which is created.
        num_workers: Number of processes at a time.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(self, logs: Path, num_workers: int) -> None:
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output={logs.parent}: cannot be written ({error.strerror})") from error
        self._logs = logs
        self._num_workers = num_workers

    def train(self, plan: StudyPlan) -> list[dict[str, Any]]:
        """Train the missing runs that no other process owns.

        Returns:
            ``name``, ``status`` and ``log`` of the failed trainings. A diverged run is a result, not a failure.

        Raises:
            Preempted: As ``run_commands``.
        """
        commands, watch = [], Watch()
        watch.settle(run.directory.lock for run in plan.missing)
        for run in plan.missing:
            name = run.directory.run_id
            if (owner := watch.owner(run.directory.lock)) is not None:
                sys.stderr.write(f"convatlas: {name} is owned by {owner}, and left to it\n")
            else:
                commands.append(Command(name, tuple(train_command(run.overrides)), self._logs / f"{name}.log"))
        failed = self._run(commands)
        diverged = {run.directory.run_id for run in plan.runs if run.diverged}
        return [entry for entry in failed if entry["name"] not in diverged]

    def evaluate(self, evaluations: Iterable[Evaluation]) -> list[dict[str, Any]]:
        """Run the evaluations that have no result, each once; as ``train``."""
        open_ones = {item.folder: item for item in evaluations if item.result is None}
        commands = [
            Command(item.name, tuple(item.command), self._logs / f"evaluation-{folder.name}.log")
            for folder, item in open_ones.items()
        ]
        return self._run(commands)

    def _run(self, commands: Sequence[Command]) -> list[dict[str, Any]]:
        failed: list[dict[str, Any]] = []
        ended = 0

        def tell(command: Command, status: int) -> None:
            nonlocal ended
            ended += 1
            text = f"ended with status {status}, see {command.log}" if status else "is done"
            sys.stderr.write(f"convatlas: {ended} of {len(commands)}: {command.name} {text}\n")
            if status:
                failed.append({"name": command.name, "status": status, "log": str(command.log)})

        if commands:
            sys.stderr.write(f"convatlas: {len(commands)} to do, {self._num_workers} at a time; logs: {self._logs}\n")
            run_commands(commands, self._num_workers, tell, share_cores=self._num_workers > 1)
        return failed
