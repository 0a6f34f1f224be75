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
from convatlas.errors import UserError
from convatlas.jobs.slurm import job_states
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import run_state
from convatlas.record.quantities import named_text
from convatlas.utils.console import print_table, warn_left_out
from convatlas.utils.files import read_each


def jobs(config: DictConfig) -> dict[str, Any]:
    """Ask SLURM for the jobs of all runs under ``root``.

    Args:
        config: Composed from ``conf/jobs.yaml``.

    Returns:
        ``jobs``: the latest submission first, each with ``job``, ``slurm`` (SLURM's state), ``run`` (the directory),
        ``state`` (the run's), ``summary`` (of the run) and ``submitted``; ``left_out``: for each run that cannot be
        read the reason.

    Raises:
        UserError: ``root`` is not a directory, or there is no SLURM here.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"root={root}: no such directory; expected the folder that holds the runs")
    runs = [RunDirectory(path.parent) for path in sorted(root.glob("*/jobs.json"))]
    submitted, damages = read_each(runs, _jobs)
    warn_left_out(damages)
    found = [job for jobs_of_run in submitted for job in jobs_of_run]
    states = job_states([job["job"] for job in found])
    listed = [{**job, "slurm": states.get(job["job"], "ended")} for job in found]
    return {"jobs": sorted(listed, key=lambda job: job["submitted"], reverse=True), "left_out": damages}


def _jobs(run: RunDirectory) -> list[dict[str, Any]]:
    about = {"run": str(run.path), "state": run_state(run), "summary": run.summary}
    return [{"job": entry["job"], **about, "submitted": entry["submitted"]} for entry in run.jobs]


def show(result: Mapping[str, Any]) -> None:
    """Print the jobs as a table."""
    rows = []
    for job in result["jobs"]:
        best = job["summary"].get("best")
        text = named_text(best["metric"], best["value"]) if best else None
        rows.append((job["job"], job["slurm"], job["state"], text, job["run"], job["submitted"]))
    print_table(("job", "SLURM", "run's state", "best", "run", "submitted (UTC)"), rows)


if __name__ == "__main__":
    execute(jobs, show, {"root": str})
