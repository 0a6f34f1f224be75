"""Publish runs on W&B that were offline or are only partly published.

    convatlas sync
    convatlas sync runs=runs/resnet20_cifar-fashion_mnist_sample-1a2b3c4d-s0
    convatlas sync root=/shared/runs watch=true

The W&B run receives the missing lines of the local record, then state, files, pictures and checkpoints. A complete W&B
run is not changed. A run that is training is skipped. The exit status is 1 if a run could not be published or lacks a
checkpoint that it should have.
"""

import glob
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig
from pydantic import PositiveFloat

from convatlas.cli import execute
from convatlas.errors import UnreadableError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import Watch
from convatlas.tracking.wandb.process import PublisherProcess, make_job
from convatlas.tracking.wandb.server import WandbError, WandbServer
from convatlas.utils.console import print_table, warn

TYPES = {
    "runs": str | list[str] | None,
    "root": str,
    "project": str | None,
    "entity": str | None,
    "checkpoints": Literal["none", "best", "best+last"] | None,
    "watch": bool,
    "watch_seconds": PositiveFloat,
    "answer_seconds": PositiveFloat,
    "finish_seconds": PositiveFloat,
}
DEFAULTS: dict[str, Any] = {
    "project": "convatlas",
    "entity": None,
    "group": None,
    "job_type": "train",
    "tags": [],
    "notes": None,
}
"""Settings for runs that do not track W&B themselves."""


def sync(config: DictConfig) -> dict[str, Any]:
    """Publish runs, one after another.

    Args:
        config: Composed from ``conf/sync.yaml``.

    Returns:
        ``runs``: for each its directory as ``run``, its ``state`` (``published``, ``up to date``, ``trains``,
        ``untracked``, ``failed``), and if they exist ``url``, ``rows``, ``new`` rows, ``checkpoints``, ``deleted``
        superseded versions, ``missing`` checkpoints, ``reason``.

    Raises:
        UserError: No such run, no API key, or a server that does not answer.
    """
    seen: dict[Path, tuple[float, ...]] = {}
    results: dict[str, dict[str, Any]] = {}
    watch = Watch()
    try:
        while True:
            _check_server(config)
            runs = _runs(config)
            if not config.watch:  # watching looks again soon
                watch.settle(RunDirectory(run).lock for run in runs)
            for run in runs:
                if seen.get(run) == _changed(run):
                    continue
                changed = _changed(run)
                result = _publish(run, config, watch)
                results[str(run)] = result
                if result["state"] not in ("trains", "failed"):
                    seen[run] = changed
                if config.watch and result["state"] in ("published", "failed"):
                    sys.stderr.write(f"{_line(result)}\n")
            if not config.watch:
                break
            time.sleep(config.watch_seconds)
    except KeyboardInterrupt:
        pass  # Ctrl-C ends watching
    return {"runs": list(results.values())}


def _check_server(config: DictConfig) -> None:
    try:
        WandbServer.connect(config.answer_seconds)
    except WandbError as error:
        if not config.watch:
            raise UserError(f"sync: {error}") from error
        warn(str(error))


def _runs(config: DictConfig) -> list[Path]:
    if config.runs is None:
        root = Path(config.root)
        if not root.is_dir():
            raise UserError(f"root={root}: no such directory; expected the folder that holds the runs")
        return [path.parent for path in sorted(root.glob("*/summary.json"))]
    named = [config.runs] if isinstance(config.runs, str) else config.runs
    found = [
        Path(path)
        for name in named
        for path in (sorted(glob.glob(name)) if "*" in name else [name])  # noqa: PTH207  of absolute patterns, too
    ]
    for path in found:
        if not RunDirectory(path).summary_file.is_file():
            raise UserError(f"runs={path}: not a run directory, expected summary.json there")
    if not found:
        raise UserError(f"runs={config.runs}: no such run")
    return found


def _changed(run: Path) -> tuple[float, ...]:
    record = RunDirectory(run)
    return tuple(path.stat().st_mtime for path in (record.summary_file, record.metrics) if path.is_file())


def _publish(run: Path, config: DictConfig, watch: Watch) -> dict[str, Any]:
    try:
        owner, settings = watch.owner(RunDirectory(run).lock), RunDirectory(run).config
    except UnreadableError as error:
        return {"run": str(run), "state": "failed", "reason": str(error)}
    if owner is not None:
        return {"run": str(run), "state": "trains", "reason": f"owned by {owner}"}
    own = (settings.get("tracking") or {}).get("wandb")
    if own is None and config.runs is None:
        return {"run": str(run), "state": "untracked", "reason": "tracking has no wandb; runs= names it all the same"}
    options = {key: (own or {}).get(key, default) for key, default in (DEFAULTS | {"checkpoints": "none"}).items()}
    options |= {key: config[key] for key in ("project", "entity", "checkpoints") if config[key] is not None}
    seconds = {"answer_seconds": config.answer_seconds, "finish_seconds": config.finish_seconds}
    publisher = PublisherProcess(make_job(str(run), settings, options, live=False, **seconds))
    try:
        publisher.opened()
        result = publisher.finish()
    except WandbError as error:
        return {"run": str(run), "state": "failed", "reason": str(error)}
    finally:
        publisher.end()
    if result["missing"]:
        reason = f"{', '.join(result['missing'])}.ckpt is lost"
        return {"run": str(run), "state": "failed", "reason": reason, **result}
    return {"run": str(run), "state": "published" if result.pop("sent") else "up to date", **result}


def show(result: Mapping[str, Any]) -> None:
    """Print the state of each run."""
    rows = [(run["run"], run["state"], run.get("new"), run.get("reason") or run.get("url")) for run in result["runs"]]
    print_table(("run", "state", "new rows", ""), rows, numbers=("new rows",))


def _line(result: Mapping[str, Any]) -> str:
    return f"{result['run']}  {result['state']}  {result.get('reason') or result.get('url')}"


def status(result: Mapping[str, Any]) -> int:
    """1 if a run failed."""
    return int(any(run["state"] == "failed" for run in result["runs"]))


if __name__ == "__main__":
    execute(sync, show, TYPES, status=status)
