"""List the local runs with their state and best metric.

    convatlas runs
    convatlas runs root=/scratch/runs format=json

A run is running, finished, failed, preempted (stopped by a signal), or interrupted (its process is gone, or was stopped
with Ctrl-C). The command that started one of the last three continues it. "No sign of life since …" means that a run on
another machine has been silent for two minutes by this machine's clock: it is dead, or the clocks differ. The command
that started it finds out, and continues it if it is dead.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import run_state
from convatlas.record.quantities import named_text
from convatlas.utils.console import print_table, warn_left_out
from convatlas.utils.files import read_each


def runs(config: DictConfig) -> dict[str, Any]:
    """Read the summaries of all runs under ``root``, the latest start first.

    Args:
        config: Composed from ``conf/runs.yaml``.

    Returns:
        ``runs``: a list of summaries with ``run`` (the directory) and ``state``; ``left_out``: for each run that
        cannot be read the reason.

    Raises:
        UserError: ``root`` is not a directory.
    """
    root = Path(config.root)
    if not root.is_dir():
        raise UserError(f"root={root}: no such directory; expected the folder that holds the runs")
    found = [RunDirectory(path.parent) for path in sorted(root.glob("*/summary.json"))]
    summaries, damages = read_each(found, _summary)
    warn_left_out(damages)
    return {
        "runs": sorted(summaries, key=lambda summary: summary.get("started", ""), reverse=True),
        "left_out": damages,
    }


def _summary(run: RunDirectory) -> dict[str, Any]:
    return {"run": str(run.path), **run.summary, "state": run_state(run)}


def _reported(summary: Mapping[str, Any]) -> list[str]:
    """The metric of the reported split that corresponds to the one the best checkpoint was chosen by."""
    wanted = str((summary.get("best") or {}).get("metric")).rpartition("/")[2]
    return [
        named_text(name, value) for name, value in (summary.get("test") or {}).items() if name.endswith(f"/{wanted}")
    ]


def show(result: Mapping[str, Any]) -> None:
    """Print the runs as a table."""
    rows = [
        (
            summary["run"],
            summary["state"],
            summary.get("epochs"),
            named_text(summary["best"]["metric"], summary["best"]["value"]) if summary.get("best") else None,
            "  ".join(_reported(summary)),
            summary.get("started"),
        )
        for summary in result["runs"]
    ]
    print_table(("run", "state", "epochs", "best", "reported", "started (UTC)"), rows)


if __name__ == "__main__":
    execute(runs, show, {"root": str})
