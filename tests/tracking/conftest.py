"""A W&B server on loopback, and runs to publish to it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from convatlas.config.composition import compose, plain
from convatlas.record.lines import read_metrics
from pipelines.sync import sync
from tests.conftest import SMALL
from tests.gates import PATIENCE, Gate
from tests.wandb_server import KEY, Run, WandbServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server that the environment points to; whatever it did not understand is an error."""
    with WandbServer() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield running
        assert running.unknown == []


@pytest.fixture
def offline_run(trained: dict[str, Any], tmp_path: Path) -> Path:
    """A finished run that was tracked offline, with its checkpoints to be sent."""
    run = tmp_path / "runs" / Path(trained["run"]).name
    shutil.copytree(trained["run"], run)
    set_tracking(run, mode="offline", checkpoints="best+last", tags=["small"], notes="a test")
    return run


def set_tracking(run: Path, **options: Any) -> None:
    """Write into a run's configuration how it was tracked."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["tracking"] = {"wandb": plain(compose("train"))["tracking"]["wandb"] | options}
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def synced(run: Path, *overrides: str) -> dict[str, Any]:
    """Synchronise one run; what became of it."""
    patient = [f"answer_seconds={PATIENCE}", f"finish_seconds={PATIENCE}"]
    (result,) = sync(compose("sync", [f"runs={run}", *patient, *overrides]))["runs"]
    return dict(result)


def rows(published: Run) -> list[dict[str, Any]]:
    """The history of a W&B run, in the form of the record's lines, without media."""
    lines = []
    for number, row in enumerate(published.history):
        assert row.pop("_step") == number
        row.pop("_runtime", None)
        line = {"step": row.pop("trainer/global_step"), "epoch": row.pop("epoch"), "time": row.pop("_timestamp")}
        lines.append(line | {name: value for name, value in row.items() if not isinstance(value, dict)})
    return lines


def record(run: Path) -> list[dict[str, Any]]:
    """The lines of the local record."""
    return read_metrics(run / "metrics.jsonl")


def bytes_under(directory: Path) -> int:
    """What a directory takes on the disk, a file of several names once."""
    files = {(stat.st_ino, stat.st_size) for path in directory.rglob("*") if path.is_file() for stat in [path.stat()]}
    return sum(size for _, size in files)


def train_process(root: Path, *overrides: str, gate: Gate | None = None) -> "subprocess.Popen[str]":
    """Start a small training run in a process of its own, which a gate may hold."""
    small = [override for override in SMALL if not override.startswith("tracking")]
    patient = [f"tracking.wandb.{key}={PATIENCE}" for key in ("answer_seconds", "finish_seconds")]
    command = [sys.executable, "-m", "convatlas", "train", *small, *patient, f"run.root={root}", *overrides]
    environment = gate.environment if gate else None
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def summary(run: Path) -> dict[str, Any]:
    """A run's ``summary.json``."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return found
