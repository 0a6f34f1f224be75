"""Where a run goes on when its record lacks steps of its checkpoints."""

import json
from pathlib import Path

import pytest

from convatlas.errors import NewerFormatError, UnreadableError
from convatlas.record.directory import RunDirectory
from convatlas.training.checkpoint_io import AtomicCheckpointIO, CheckpointMetadata, newest_checkpoint
from convatlas.training.resume import ResumePoint, resume_point


def write_checkpoint(path: Path, step: int, record_bytes: int = 0, **metadata: object) -> None:
    config = {"model": {}, "data": {}, "trainer": {"log_every_n_steps": 2}}
    callbacks = {"RunCheckpoints": {"best_value": None, "record_bytes": record_bytes}}
    about = {"config": config, "class_list": ["a"], **metadata}
    content = {"convatlas": about, "state_dict": {}, "global_step": step, "callbacks": callbacks}
    AtomicCheckpointIO().save_checkpoint(content, path)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with checkpoints of steps 4 and 9, and a record of each second step up to the tenth."""
    run = RunDirectory(tmp_path / "r")
    run.create()
    write_checkpoint(run.previous, 4)
    write_checkpoint(run.last, 9)
    run.metrics.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 3, 5, 7, 9)), encoding="utf-8")
    return run


def cut(run: RunDirectory, lines: int) -> None:
    kept = run.metrics.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
    run.metrics.write_text("".join(kept), encoding="utf-8")


def test_a_run_without_checkpoints_starts_at_step_zero(tmp_path: Path) -> None:
    assert resume_point(RunDirectory(tmp_path)) == ResumePoint(None, 0)


@pytest.mark.parametrize("lines", [5, 4])
def test_a_record_of_every_step_goes_on_from_the_last(
    run: RunDirectory, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(run, lines)
    assert resume_point(run) == ResumePoint(run.last, 9)
    assert capsys.readouterr().err == ""


def test_steps_that_were_lost_are_named_and_trained_again(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(run, 2)
    assert resume_point(run) == ResumePoint(run.previous, 4)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("convatlas: warning: ")
    assert line.endswith(
        "metrics.jsonl lacks steps 4 to 8 of the 9 that last.ckpt holds: resuming from previous.ckpt, which trains "
        "them again"
    )


@pytest.mark.parametrize("previous", [True, False])
def test_steps_that_no_checkpoint_brings_back_are_named(
    run: RunDirectory, previous: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    run.metrics.unlink()
    if not previous:
        run.previous.unlink()
    assert resume_point(run) == ResumePoint(run.last, 9)
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks steps 0 to 8 of the 9 that last.ckpt holds: their metrics are lost" in line


def test_a_recorded_line_that_is_missing_later_is_noticed(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    validation = '{"step": 8, "val/top1": 0.5}\n'  # of no step that is due
    whole = run.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    run.metrics.write_text("".join([*whole[:4], validation]), encoding="utf-8")
    write_checkpoint(run.last, 9, record_bytes=run.metrics.stat().st_size)
    assert resume_point(run).checkpoint == run.last
    cut(run, 4)
    assert resume_point(run).checkpoint == run.previous
    assert "lacks steps 8 to 8 of the 9" in capsys.readouterr().err


def test_a_damaged_record_stops_the_run_before_anything_is_written(run: RunDirectory) -> None:
    with run.metrics.open("a", encoding="utf-8") as file:
        file.write('oops\n{"step": 11}\n')
    before = run.metrics.read_bytes()
    with pytest.raises(UnreadableError, match=r"metrics\.jsonl:6: damaged line"):
        resume_point(run)
    assert run.metrics.read_bytes() == before


def test_a_checkpoint_of_a_newer_format_is_refused_and_not_passed_over(run: RunDirectory) -> None:
    written = CheckpointMetadata("r", {}, type("Classes", (), {"names": ["a"], "hash": "h"})())
    assert written.metadata["format"] == 1
    write_checkpoint(run.last, 9, format=1)
    assert resume_point(run).step == 9
    write_checkpoint(run.last, 9, format=2)
    with pytest.raises(
        NewerFormatError, match=r"checkpoint=.*last\.ckpt: written by a newer ConvAtlas; its format is 2"
    ):
        newest_checkpoint(run.last, run.previous)
