"""One damaged small file is one line that names it, and hides no other run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import compose
from convatlas.errors import NewerFormatError, UnreadableError, UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.files import read_evaluation, read_lock, read_source
from convatlas.record.lock import RunLock, Watch, run_state
from convatlas.report.figures.panels import Dashboard
from convatlas.report.live import LiveReport
from pipelines import jobs as jobs_pipeline
from pipelines.jobs import jobs
from pipelines.report import report
from pipelines.runs import runs

LOCK = {"host": "h", "pid": 1, "process_start": 1, "since": "2026-01-01", "slurm_job": None, "slurm_restart": 0}
JOB = {"job": "7", "submitted": "2026-01-01T00:00:00+00:00", "command": "sbatch"}
CLASSIFIED = {"path": "a.jpg", "image": "a.png", "label": 0, "prediction": 0}
CLASSIFIED |= {"confidence": 0.5, "label_confidence": "NaN"}
EVALUATION: dict[str, Any] = {"task_type": "classification", "split": "test", "classes": ["a"], "metrics": {}}
ROW = {"class": "a", "colour": "#000000", "pixels": 1, "iou": 0.5, "accuracy": None}
MASKS = EVALUATION | {"task_type": "segmentation", "per_class_iou": [ROW], "pixel_confusion_matrix": [[1]]}
OBJECTS = EVALUATION | {"task_type": "detection", "per_class_ap": []}
READERS: dict[str, Callable[[Path], Any]] = {
    "summary.json": lambda run: RunDirectory(run).summary,
    "provenance.json": lambda run: RunDirectory(run).provenance,
    "config.yaml": lambda run: RunDirectory(run).config,
    "jobs.json": lambda run: RunDirectory(run).jobs,
    "git.json": lambda run: read_source(run / "git.json"),
    "lock.json": lambda run: read_lock(run / "lock.json"),
    "evaluation/test.json": lambda run: read_evaluation(run / "evaluation" / "test.json"),
}
DAMAGES = {
    "empty": b"",
    "NUL bytes": b"\0" * 300,
    "NUL bytes at the end": b'{"a": 1}\0\0',
    "text": b'"text"',
    "a number": b"1",
    "null": b"null",
    "a list of lists": b"[[]]",
    "half a surrogate pair": b'{"name": "\\ud800"}',
    "half a surrogate pair in a key": b'{"a": {"\\udfff": 1}}',
    "nested too deeply": b'{"a": ' * 2000 + b"1" + b"}" * 2000,
    "not UTF-8": b'{"name": "\xff"}',
}
WRONG_ENTRIES = [
    ("summary.json", {"state": 5}),
    ("summary.json", {"started": "yesterday"}),
    ("summary.json", {"started": "2026-01-01"}),
    ("summary.json", {"state": "finished"}),
    ("summary.json", {"best": ["val/top1"]}),
    ("summary.json", {"test": {"test/top1": "high"}}),
    ("summary.json", {"format": "one"}),
    ("provenance.json", {"git": "0123"}),
    ("provenance.json", {"git": {"commit": "HEAD"}}),
    ("provenance.json", {"git": {"commit": "--output=0123456"}}),
    ("provenance.json", {"git": {"commit": "0123456\n"}}),
    ("provenance.json", {"earlier_attempts": [{"git": 1}]}),
    ("config.yaml", {"data": "cifar10"}),
    ("config.yaml", {"expected": [{"metric": "test/top1", "value": "high", "source": "x"}]}),
    ("config.yaml", {"expected": [{"metric": "test/top1", "value": 0.9, "source": "x", "a": 1}]}),
    ("config.yaml", {"tracking": {"wandb": {"checkpoints": "all"}}}),
    ("jobs.json", [{"job": 7}]),
    ("jobs.json", [JOB | {"job": "x"}]),
    ("git.json", {"commit": "x", "dirty": False, "diff": ""}),
    ("lock.json", LOCK | {"pid": "1"}),
    ("lock.json", {}),
    ("summary.json", {"epochs": 10**400}),
    ("summary.json", {"best": {"metric": "val/top1", "value": 10**400}}),
    ("lock.json", LOCK | {"pid": 10**20}),
    ("evaluation/test.json", {"split": "test", "classes": [1], "metrics": {}}),
    ("evaluation/test.json", EVALUATION | {"metrics": {"test/loss": 10**400}}),
    ("evaluation/test.json", EVALUATION | {"protocol": "x"}),
    ("evaluation/test.json", EVALUATION | {"confusion_matrix": [[1, 2]]}),
    ("evaluation/test.json", EVALUATION | {"confusion_matrix": [[10**400]]}),
    ("evaluation/test.json", EVALUATION | {"samples": None}),
    ("evaluation/test.json", EVALUATION | {"samples": [CLASSIFIED | {"prediction": 1}]}),
    ("evaluation/test.json", EVALUATION | {"mistakes": [CLASSIFIED | {"label": -1}]}),
    ("evaluation/test.json", EVALUATION | {"mistakes": [CLASSIFIED | {"image": None}]}),
    ("evaluation/test.json", EVALUATION | {"per_class": [{"class": "a", "count": 1}]}),
    ("evaluation/test.json", EVALUATION | {"task_type": "segmentation", "per_class_iou": []}),
    ("evaluation/test.json", EVALUATION | {"task_type": ["detection"]}),
    ("evaluation/test.json", MASKS | {"worst": [CLASSIFIED]}),
    ("evaluation/test.json", OBJECTS | {"worst": [CLASSIFIED]}),
    ("evaluation/test.json", MASKS | {"per_class_iou": [ROW | {"colour": "red; background: url(x)"}]}),
]


@pytest.fixture
def run(make_run: Any) -> Path:
    """A run with every small file."""
    path: Path = make_run()
    (path / "jobs.json").write_text(json.dumps([JOB]), encoding="utf-8")
    (path / "lock.json").write_text(json.dumps(LOCK), encoding="utf-8")
    (path / "git.json").write_text('{"commit": "0123456", "dirty": true, "diff": ""}', encoding="utf-8")
    return path


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_line_that_names_it(run: Path, name: str) -> None:
    path, read = run / name, READERS[name]
    assert read(run)
    whole = path.read_bytes()
    damages = list(DAMAGES.values()) + ([whole[: len(whole) // 2]] if name.endswith("json") else [])
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(UnreadableError, match=rf"{name}: damaged, ") as raised:
            read(run)
        assert "\n" not in str(raised.value)
        assert path.read_bytes() == damage


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_regular_file_is_not_waited_for(run: Path, name: str) -> None:
    path = run / name
    path.unlink()
    make: list[Callable[[], None]] = [path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero")]
    for number, one in enumerate(make):
        one()
        with pytest.raises(UnreadableError, match=rf"{name}: cannot be read \(not a regular file\)"):
            READERS[name](run)
        path.rmdir() if number == 0 else path.unlink()


@pytest.mark.parametrize(("name", "content"), WRONG_ENTRIES)
def test_an_entry_of_another_type_is_damage(run: Path, name: str, content: Any) -> None:
    (run / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UnreadableError, match=rf"{name}: damaged, "):
        READERS[name](run)


@pytest.mark.parametrize("content", [EVALUATION | {"samples": [CLASSIFIED]}, MASKS, OBJECTS])
def test_evaluations_are_read_unchanged_and_those_of_earlier_versions_get_a_task_type(run: Path, content: Any) -> None:
    path = run / "evaluation" / "test.json"
    for written in (content, {name: value for name, value in content.items() if name != "task_type"}):
        path.write_text(json.dumps(written), encoding="utf-8")
        assert read_evaluation(path) == content


def test_a_finished_run_without_its_result_is_damaged(run: Path) -> None:
    summary = RunDirectory(run).summary
    del summary["best"], summary["steps"]
    (run / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(UnreadableError, match=r"summary\.json: damaged, expected steps, best of a finished run$"):
        _ = RunDirectory(run).summary


def test_a_newer_format_is_refused_in_one_line_and_none_is_the_oldest(run: Path) -> None:
    assert RunDirectory(run).summary["state"] == "finished"
    for version in (0, 1):
        (run / "summary.json").write_text(json.dumps({"format": version, "state": "failed"}), encoding="utf-8")
        assert RunDirectory(run).summary["state"] == "failed"
    (run / "summary.json").write_text('{"format": 2, "state": {"new": "kind"}}', encoding="utf-8")
    with pytest.raises(NewerFormatError, match=r"summary\.json: written by a newer ConvAtlas; its format is 2"):
        run_state(RunDirectory(run))


def damaged_runs(make_run: Any) -> tuple[Path, dict[str, Path]]:
    """A whole run, and for each file a run in which that one is damaged."""
    whole: Path = make_run(evaluation=False)
    (whole / "jobs.json").write_text(json.dumps([JOB]), encoding="utf-8")
    damaged = {}
    for name in ("summary.json", "provenance.json", "config.yaml", "jobs.json", "lock.json", "metrics.jsonl"):
        damaged[name] = whole.parent / f"damaged-{name}"
        shutil.copytree(whole, damaged[name])
        (damaged[name] / "summary.json").write_text('{"state": "running"}', encoding="utf-8")
        (damaged[name] / name).write_bytes(b"\0" * 100 + b"\n")
    return whole, damaged


def test_lists_and_pages_leave_a_damaged_run_out_and_say_so(
    make_run: Any, dashboard: Dashboard, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, damaged = damaged_runs(make_run)
    root = whole.parent
    (damaged["provenance.json"] / "provenance.json").unlink()
    (damaged["provenance.json"] / "provenance.json").symlink_to("provenance.json")  # a link to itself

    def left_out(result: dict[str, Any], *names: str) -> None:
        said = capsys.readouterr().err.splitlines()
        assert len(result["left_out"]) == len(said) == len(names)
        for name in names:
            (line,) = [line for line in said if f"{damaged[name] / name}" in line]
            assert line.startswith("convatlas: warning: ")
            assert line.endswith("; the run is left out")

    listed = runs(compose("runs", [f"root={root}"]))
    left_out(listed, "summary.json", "lock.json")
    assert str(whole) in [run["run"] for run in listed["runs"]]
    assert len(listed["runs"]) == 5
    monkeypatch.setattr(jobs_pipeline, "job_states", lambda names: dict.fromkeys(names, "RUNNING"))
    submitted = jobs(compose("jobs", [f"root={root}"]))
    left_out(submitted, "summary.json", "lock.json", "jobs.json")
    assert len(submitted["jobs"]) == 4
    unreadable = ("summary.json", "provenance.json", "config.yaml", "lock.json", "metrics.jsonl")
    written = report(compose("report", [f"root={root}", f"output={root / 'page.html'}"]))
    left_out(written, *unreadable)
    assert written["runs"] == [str(whole), str(damaged["jobs.json"])]
    live = LiveReport(root, None, dashboard, lambda path: run_state(RunDirectory(path))).snapshot().report
    for page in ((root / "page.html").read_text(encoding="utf-8"), live.sections["header"]):
        assert all(f"damaged-{name}/{name}" in page for name in unreadable)
    assert "metrics.jsonl:1: damaged" in (root / "page.md").read_text(encoding="utf-8").replace("\\", "")


def test_a_report_of_damaged_runs_alone_is_an_error(run: Path) -> None:
    (run / "summary.json").write_bytes(b"")
    with pytest.raises(UserError, match=r"summary\.json: damaged, expected a JSON object"):
        report(compose("report", [f"run={run}"]))


def test_a_damaged_lock_is_never_taken_over(run: Path) -> None:
    (run / "lock.json").write_bytes(b"")
    with (
        pytest.raises(UnreadableError, match=r"lock\.json: damaged, .*; delete it if no process trains this run"),
        RunLock(run),
    ):
        pass
    assert (run / "lock.json").read_bytes() == b""
    (run / "lock.json").unlink()
    assert Watch().owner(run / "lock.json") is None


def test_a_run_begins_over_damaged_files_only_when_it_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = RunDirectory(run)
    config = {"model": {"name": "m"}, "data": {"name": "d"}}
    (run / "provenance.json").write_bytes(b"\0")
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    with pytest.raises(UnreadableError, match=r"provenance\.json: damaged"):
        directory.begin(config, ["a"], {})
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    (run / "provenance.json").unlink()
    (run / "class_list.txt").write_bytes(b"\xff")
    directory.begin(config, ["a"], {})
    (classes_line,) = capsys.readouterr().err.splitlines()
    assert classes_line.endswith("class_list.txt: damaged, expected lines of UTF-8 text; it is written again")
    assert directory.summary["format"] == 1
