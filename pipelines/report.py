"""Write one self-contained HTML page about one run, or comparing many, and its tables as Markdown.

    convatlas report run=runs/RUN
    convatlas report run='runs/*resnet*' output=resnets.html
    convatlas report root=runs filter='resnet20_cifar state:finished'

Runs that differ only in the seed are one curve, their mean ± standard deviation. The page works offline and without a
server, for 200 runs of 100,000 steps and for runs in progress.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import run_state
from convatlas.record.reader import RunReader, RunRecord
from convatlas.report.page import write_report
from convatlas.report.selection import by_start, named_runs, runs_in, selected
from convatlas.utils.console import print_fields, warn_left_out
from convatlas.utils.files import read_each

TYPES = {"run": str | list[str] | None, "root": str | None, "filter": str | None, "output": str | None}
"""The types of the keys of ``report``."""


def report(config: DictConfig) -> dict[str, Any]:
    """Write the report of the runs that ``run`` or ``root`` names.

    Args:
        config: Composed from ``conf/report.yaml``.

    Returns:
        ``report`` and ``markdown``: the files written; ``runs``: the run directories; ``left_out``: for each run that
        cannot be read the reason; ``bytes``: the size of the page.

    Raises:
        UserError: There is no such run, no run can be read, or ``output`` cannot be written.
    """
    if (config.run is None) == (config.root is None):
        raise UserError("run or root: give one of them, run=DIR for a run or root=DIR for all runs in a folder")
    if config.root is not None:
        paths = runs_in(Path(config.root))
    else:
        paths = named_runs([config.run] if isinstance(config.run, str) else list(config.run))
    found, damages = read_each(paths, _read)
    if not found:
        raise UserError(damages[0] if damages else f"root={config.root}: no run directory there")
    warn_left_out(damages)
    if config.root is not None:
        found = by_start(found)
    runs = selected(found, config.filter)
    if not runs:
        raise UserError(f"filter={config.filter}: none of {len(found)} runs has all these words")
    output = Path(config.output or (runs[0].path / "report.html" if len(runs) == 1 else "report.html"))
    if output.suffix != ".html":
        raise UserError(f"output={output}: expected a name that ends in .html")
    try:
        page, tables = write_report(runs, output, instantiate(config.dashboard), damages)
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error.strerror})") from error
    return {
        "report": str(page),
        "markdown": str(tables),
        "runs": [str(run.path) for run in runs],
        "left_out": damages,
        "bytes": page.stat().st_size,
    }


def _read(path: Path) -> RunRecord:
    return RunReader(path, lambda path: run_state(RunDirectory(path))).read()


def show(result: Mapping[str, Any]) -> None:
    """Print the path of the page."""
    count = len(result["runs"])
    print_fields(
        {
            "report": f"{result['report']}  ({result['bytes'] / 1e6:.1f} MB, opens without a network)",
            "markdown": result["markdown"],
            "runs": result["runs"][0] if count == 1 else f"{count} compared",
        }
    )


if __name__ == "__main__":
    execute(report, show, TYPES)
