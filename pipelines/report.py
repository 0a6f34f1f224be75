"""Write one self-contained HTML page about one run, or comparing several.

    convatlas report run=runs/RUN
    convatlas report run='runs/*resnet*' output=resnets.html
    convatlas report run='[runs/A, runs/B]'

The page needs no network and no server. A run in progress can be reported too.
"""

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.console import print_fields
from convatlas.errors import UserError
from convatlas.report.page import write_report


def report(config: DictConfig) -> dict[str, Any]:
    """Write the report of the runs that ``run`` names.

    Args:
        config: Composed from ``conf/report.yaml``.

    Returns:
        ``report``: the file written; ``runs``: the run directories; ``bytes``: the size of the file.

    Raises:
        UserError: ``run`` matches no run directory, or ``output`` cannot be written.
    """
    runs = _find_runs([config.run] if isinstance(config.run, str) else list(config.run))
    output = Path(config.output or (runs[0] / "report.html" if len(runs) == 1 else "report.html"))
    try:
        write_report(runs, output)
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error.strerror})") from error
    return {"report": str(output), "runs": [str(run) for run in runs], "bytes": output.stat().st_size}


def _find_runs(patterns: Sequence[str]) -> list[Path]:
    """A directory stands for itself, a glob for the run directories among its matches."""
    found: list[Path] = []
    for pattern in patterns:
        if Path(pattern).is_dir():
            found.append(Path(pattern))
            continue
        matches = sorted(Path(item) for item in glob.glob(pattern))  # noqa: PTH207  the pattern may be absolute
        runs = [match for match in matches if (match / "config.yaml").is_file()]
        if not runs:
            raise UserError(f"run={pattern}: no run directory there; expected a directory, a list, or a glob in quotes")
        found += runs
    if not found:
        raise UserError("run=[]: expected at least one run directory")
    return list(dict.fromkeys(found))


def show(result: Mapping[str, Any]) -> None:
    """Print where the page is."""
    count = len(result["runs"])
    print_fields(
        {
            "report": f"{result['report']}  ({result['bytes'] / 1e6:.1f} MB, opens without a network)",
            "runs": result["runs"][0] if count == 1 else f"{count} compared",
        }
    )


if __name__ == "__main__":
    execute(report, show, {"output": str | None})
