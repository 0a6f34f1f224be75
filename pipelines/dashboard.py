"""Serve the report of a folder of runs on this machine, live while they train.

    convatlas dashboard
    convatlas dashboard root=/scratch/runs filter=resnet50 port=9000

Open the printed address; Ctrl-C ends the server. From another machine: ssh -L 8765:127.0.0.1:8765 HOST.
It writes nothing, so a login node that has the disk of the runs can serve the runs of a cluster.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import Field, PositiveFloat

from convatlas.cli import execute
from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import run_state
from convatlas.report.live import LiveReport
from convatlas.report.selection import runs_in
from convatlas.report.server import ReportServer
from convatlas.utils.console import print_fields

TYPES = {
    "root": str,
    "filter": str | None,
    "port": Annotated[int, Field(ge=0, le=65535)],
    "refresh": PositiveFloat,
}
"""The types of the keys of ``dashboard``."""


def dashboard(config: DictConfig) -> dict[str, Any]:
    """Serve the report until Ctrl-C.

    Args:
        config: Composed from ``conf/dashboard.yaml``.

    Returns:
        ``url``: its address; ``runs``: the number of runs at the start.

    Raises:
        UserError: ``root`` is no directory, or ``port`` is taken.
    """
    root = Path(config.root)
    count = len(runs_in(root))
    live = LiveReport(root, config.filter, instantiate(config.dashboard), lambda path: run_state(RunDirectory(path)))
    try:
        server = ReportServer(live, config.port, config.refresh)
    except OSError as error:
        raise UserError(f"port={config.port}: cannot be used ({error.strerror}); give another, or 0 for any") from error
    with server:
        print_fields({"dashboard": server.url, "runs": f"{count:,} in {root}; Ctrl-C ends it"})
        Thread(target=live.snapshot, daemon=True).start()  # reads while the browser is opened
        with suppress(KeyboardInterrupt):
            server.serve_forever()
    return {"url": server.url, "runs": count}


def show(result: Mapping[str, Any]) -> None:
    """Print that the server has ended."""
    print_fields({"ended": f"{result['url']}, {result['runs']:,} runs"})


if __name__ == "__main__":
    execute(dashboard, show, TYPES)
