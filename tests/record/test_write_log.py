"""Whatever a power cut leaves of a run: it goes on, its record is whole, and it ends as the run that was left alone."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_and_resume import difference, only_run
from convatlas.config.composition import compose
from convatlas.record.directory import RunDirectory
from convatlas.record.lines import read_metrics
from convatlas.report.views.reproduction import CLOCK
from convatlas.tracking.local import LocalRecord
from convatlas.training.checkpoint_io import read_checkpoint
from convatlas.training.resume import resume_point
from pipelines.train import train
from tests.record.write_log import Files, logged

TINY = [
    "experiment=quickstart",
    "tracking=none",
    "model.net.depth=8",
    "data.global_batch_size=8",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=1",
    "run.checkpoint_steps=2",
]
TRAINED_ON = 6
"""States from which the training really goes on to its end."""


@dataclass(frozen=True)
class Logged:
    """A run that was left alone, and the states that a power cut could have left on the way."""

    run: Path
    states: list[Files]
    events: list[str]


def test_a_power_cut_at_any_moment_costs_nothing(
    logged_run: Logged, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda number: None)  # which is slow, and no power is cut here
    expected = lines(logged_run.run)
    unfinished: list[tuple[int, Files]] = []
    for number, state in enumerate(logged_run.states):
        run = RunDirectory(rebuild(state, tmp_path / str(number)))
        if run.finished:
            assert difference(run.path, logged_run.run) is None
            assert (run.path / "evaluation" / "test.json").read_bytes().endswith(b"}")
            continue
        step = assert_goes_on(run, expected)
        assert capsys.readouterr().err == ""
        unfinished.append((step, state))
    assert {step for step, _ in unfinished} == {0, 2, 4, 6, 8}
    assert len(unfinished) > 60
    for number in range(TRAINED_ON):
        _, state = unfinished[(2 * number + 1) * len(unfinished) // (2 * TRAINED_ON)]
        root = tmp_path / f"trained-{number}"
        rebuild(state, root)
        train(compose("train", [*TINY, f"run.root={root}"]))
        assert difference(only_run(root), logged_run.run) is None


def test_a_record_is_on_the_disk_before_its_checkpoint_has_its_name(logged_run: Logged) -> None:
    events = [event.removeprefix(f"rename {logged_run.run.name}/") for event in logged_run.events]
    for named in (position for position, event in enumerate(events) if event == "checkpoints/pending.ckpt last.ckpt"):
        before = [event.replace(f"{logged_run.run.name}", "RUN") for event in logged_run.events[:named]]
        assert "sync RUN/metrics.jsonl" in before[-4:]
        assert logged_run.events[named + 1] == f"sync {logged_run.run.name}/checkpoints"


def assert_goes_on(run: RunDirectory, expected: list[dict[str, Any]]) -> int:
    """Begin as ``train`` does; the step from which it would go on."""
    point = resume_point(run)
    LocalRecord(run.metrics, run.run_id).resume(point.step)
    run.begin({"model": {"name": "m"}, "data": {"name": "d"}}, ["a"], {})
    assert run.summary["state"] == "running"
    recorded = lines(run.path)
    assert recorded == expected[: len(recorded)]
    assert [line for line in recorded if line["step"] < point.step] == [
        line for line in expected if line["step"] < point.step
    ]
    if point.step >= 4:  # the end of the first epoch, which was validated
        assert read_checkpoint(run.best)["global_step"] >= 4
    return point.step


def lines(run: Path) -> list[dict[str, Any]]:
    """The record without the entries of the clock."""
    return [
        {name: value for name, value in line.items() if name not in CLOCK}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def rebuild(state: Files, root: Path) -> Path:
    """Write the files of a state; the process that owned the run is gone."""
    for name, content in state.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.replace(f'"pid": {os.getpid()}'.encode(), b'"pid": 99999999'))
    run = root / next(iter(state)).partition("/")[0]
    (run / "checkpoints").mkdir(exist_ok=True)
    return run


@pytest.fixture(scope="module")
def logged_run(tmp_path_factory: pytest.TempPathFactory) -> Logged:
    root = tmp_path_factory.mktemp("logged")
    with logged(root) as log:
        result = train(compose("train", [*TINY, f"run.root={root}"]))
    return Logged(Path(result["run"]), [dict(state) for state in log.states if state], log.events)
