"""List the SLURM jobs of the local runs: what SLURM says of them, and what became of the run.

    convatlas jobs
    convatlas jobs root=/scratch/runs format=json

The jobs are those that `convatlas submit` submitted. SLURM forgets a job some minutes after its end where the cluster
keeps no accounts; it is then shown as ended.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.console import metric_text, print_table
from convatlas.errors import UserError
from convatlas.run.directory import RunDirectory
from convatlas.run.lock import run_state
from convatlas.run.slurm import job_states


def jobs(config: DictConfig) -> dict[str, Any]:
    """Ask SLURM for the jobs of all runs under ``root``.

    Args:
        config: Composed from ``conf/jobs.yaml``.

    Returns:
        ``jobs``: the latest submission first, each with ``job``, ``slurm`` (SLURM's state), ``run`` (the directory),
        ``state`` (the run's), ``summary`` (of the run) and ``submitted``.

    Raises:
        UserError: ``root`` is not a directory, or there is no SLURM here.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"root={root}: no such directory; expected the folder that holds the runs")
    runs = [RunDirectory(path.parent) for path in root.glob("*/jobs.json")]
    states = job_states([entry["job"] for run in runs for entry in run.jobs])
    found = [
        {
            "job": entry["job"],
            "slurm": states.get(entry["job"], "ended"),
            "run": str(run.path),
            "state": run_state(run),
            "summary": run.summary,
            "submitted": entry["submitted"],
        }
        for run in runs
        for entry in run.jobs
    ]
    return {"jobs": sorted(found, key=lambda job: job["submitted"], reverse=True)}


def show(result: Mapping[str, Any]) -> None:
    """Print the jobs as a table."""
    rows = []
    for job in result["jobs"]:
        best = job["summary"].get("best")
        text = f"{best['metric']} {metric_text(best['metric'], best['value'])}" if best else None
        rows.append((job["job"], job["slurm"], job["state"], text, job["run"], job["submitted"]))
    print_table(("job", "SLURM", "run's state", "best", "run", "submitted (UTC)"), rows)


if __name__ == "__main__":
    execute(jobs, show, {"root": str})
