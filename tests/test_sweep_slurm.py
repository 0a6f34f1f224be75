"""A sweep on a real SLURM: workers are told to stop and killed, trials crash and diverge, all are accounted for."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from convatlas.sweep.definition import open_sweep
from tests.conftest import SMALL, read_json
from tests.gates import PATIENCE, Gate
from tests.slurm_cluster import SlurmCluster, missing

CHOICE = "_target_:convatlas.sweep.space.Choice"
SWEEP = [
    "sweep=grid",
    "~space.batch",
    "~space.learning_rate",
    # Ten ordinary trainings, one that the Trainer refuses, one that diverges.
    f"+space.rate={{{CHOICE},key:optimizer.learning_rate,values:[0.02,0.05,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.03,1e30]}}",
    f"+space.clip={{{CHOICE},key:+trainer.gradient_clip_algorithm,values:[none],when:{{rate:0.03}}}}",
    "num_trials=12",
    *SMALL,
    "run.checkpoint_steps=3",
    *("cluster=cpu", "resources=one_cpu", "resources.cpus_per_task=1", "num_workers=2"),
]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


@pytest.fixture
def cluster() -> Iterator[SlurmCluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: the path of a socket may not be long
    with SlurmCluster(folder / "c", nodes=2, cpus=1) as running:
        yield running
    shutil.rmtree(folder)


def sweep(cluster: SlurmCluster, directory: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "convatlas", "sweep", *SWEEP, "format=json"],
        cwd=directory,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def has_ended(cluster: SlurmCluster, job: str) -> bool:
    return cluster.state(job) in ("COMPLETED", "FAILED", "CANCELLED")


def open_trial(directory: Path, job: str) -> int:
    """The trial that one worker does."""
    (number,) = (
        trial.number
        for trial in open_sweep(directory).study.get_trials()
        if not trial.state.is_finished() and trial.user_attrs.get("worker") == f"job-{job}"
    )
    return number


def worker_process(cluster: SlurmCluster, job: str) -> psutil.Process:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_own = process.environ().get("SLURM_CONF") == cluster.environment["SLURM_CONF"]
            if is_own and "convatlas.sweep" in process.cmdline() and f"job-{job}" in process.cmdline():
                return process
    raise LookupError(job)


def test_every_trial_is_accounted_for_whatever_ends_workers(cluster: SlurmCluster, tmp_path: Path) -> None:
    with Gate(tmp_path / "gate", step=3) as gate:
        cluster.environment |= gate.variables
        started = sweep(cluster, tmp_path)
        directory, jobs = tmp_path / started["sweep"], started["jobs"]
        assert (started["state"], len(jobs)) == ("running", 2)
        assert sweep(cluster, tmp_path)["jobs"] == jobs  # they are queued or run: no more are submitted

        gate.wait(2)  # each worker's first training is held until its worker has been ended and begun again
        told = open_trial(directory, jobs[0])
        cluster.command("scancel", "--signal=USR1", "--batch", jobs[0])
        cluster.wait(lambda: cluster.field(jobs[0], "Restarts") == "1", PATIENCE, "the requeue after USR1")
        killed = open_trial(directory, jobs[1])
        worker_process(cluster, jobs[1]).kill()
        cluster.wait(lambda: cluster.field(jobs[1], "Restarts") == "1", PATIENCE, "the requeue after SIGKILL")
        gate.wait(4)

    for job in jobs:
        cluster.wait(partial(has_ended, cluster, job), 1800, "the end")
    logs = "\n".join(path.read_text(encoding="utf-8")[-3000:] for path in sorted((directory / "logs").glob("*.log")))
    assert [cluster.state(job) for job in jobs] == ["COMPLETED", "COMPLETED"], logs

    result = sweep(cluster, tmp_path)
    assert (result["state"], result["jobs"]) == ("finished", [])
    trials = result["trials"]
    assert [trial["number"] for trial in trials] == list(range(12))
    assert [trial["state"] for trial in trials] == ["complete"] * 10 + ["fail"] * 2, logs
    assert "gradient_clip_algorithm" in trials[10]["reason"]
    assert trials[11]["reason"].startswith("diverged: train/loss is nan")
    (best,) = result["best"]
    assert best["values"]["val/top1"] == max(trial["values"]["val/top1"] for trial in trials[:10])
    assert f"optimizer.learning_rate={best['params']['rate']}" in best["command"]
    records = open_sweep(directory).study.get_trials()
    deaths = {
        number: record.user_attrs["deaths"] for number, record in enumerate(records) if "deaths" in record.user_attrs
    }
    assert deaths == {told: 0, killed: 1}  # who was told to stop is not dead; no other trial was taken up twice
    provenance = [read_json(Path(tmp_path, trial["run"], "provenance.json")) for trial in trials if trial["run"]]
    assert sum(len(entry.get("earlier_attempts", [])) for entry in provenance) == 2
