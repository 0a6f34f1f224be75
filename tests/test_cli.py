"""The command line: one JSON document, one-line errors, exit statuses."""

import errno
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from convatlas import cli
from convatlas.errors import UserError
from tests.conftest import Command


def test_a_verb_of_two_words_is_a_pipeline_with_an_underscore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data_count.py").write_text('"""Count."""\nimport sys\nprint(sys.argv[1:])\n', encoding="utf-8")
    monkeypatch.setattr(cli, "project_path", lambda name: tmp_path)
    monkeypatch.setattr(sys, "argv", ["convatlas", "data", "count", "root=x"])
    assert cli.main() == 0
    assert capsys.readouterr().out == "['root=x']\n"


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["convatlas", "--version"])
    assert cli.main() == 0
    assert capsys.readouterr().out == f"convatlas {version('convatlas')}\n"


def test_every_verb_is_in_one_group_of_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["convatlas"])
    assert cli.main() == 0
    lines = capsys.readouterr().out.splitlines()
    verbs = [line[2:16].strip() for line in lines if line.startswith("  ")]
    assert sorted(verbs) == sorted(path.stem.replace("_", " ") for path in Path("pipelines").glob("*.py"))
    assert set(cli.VERBS) <= set(lines)


def test_without_arguments_the_verbs_are_listed(convatlas: Command) -> None:
    done = convatlas()
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("train", "evaluate", "predict", "check", "report", "runs"))


@pytest.mark.parametrize("arguments", [["data"], ["data", "--help"], ["-h", "data"]])
def test_the_first_of_two_words_lists_its_verbs(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["convatlas", *arguments])
    assert cli.main() == 0
    lines = capsys.readouterr().out.splitlines()
    verbs = [line[:16].strip() for line in lines if line.startswith("  ")]
    assert verbs == ["data bench", "data index", "data prepare", "data show", "data verify"]


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "check", "report", "runs"])
def test_each_verb_explains_itself(convatlas: Command, verb: str) -> None:
    done = convatlas(verb, "--help")
    assert done.returncode == 0
    assert f"convatlas {verb}" in done.stdout
    assert "format: text" in done.stdout


def test_an_unknown_verb_is_reported_with_the_list_of_verbs(convatlas: Command) -> None:
    done = convatlas("trian")
    assert done.returncode == 2
    assert done.stderr.startswith("convatlas: error: no verb 'trian'")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["train", "modle=resnet18"], "did you mean 'model'?"),
        (["train", "trainer.max_epochs=ten"], "trainer.max_epochs=ten: expected"),
        (["train", "data=imagefolder", "data.root=/nowhere"], "data.root=/nowhere"),
        (["train", "run.root=/dev/null/runs", "debug=fast"], "run.root=/dev/null/runs"),
        (["report", "run=/nowhere"], "run"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    convatlas: Command, arguments: list[str], part: str, tmp_path: Path
) -> None:
    done = convatlas(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("convatlas: error: ")]
    assert part in line
    assert list(tmp_path.iterdir()) == []


def test_train_json_is_one_document_and_lines_of_progress(convatlas: Command) -> None:
    done = convatlas("train", "experiment=quickstart", "debug=fast", "tracking=none", "format=json")
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["state"] == "finished"
    assert {"imports", "composition"} <= set(result["startup_seconds"])
    assert "global 64 = 1 rank × 64 × 1 accumulation; 2 steps/epoch × 1 epochs = 2 steps" in done.stderr
    assert "lr        0.1 = 0.4 × 64/256" in done.stderr
    assert "epoch 1/1" in done.stderr
    assert "Traceback" not in done.stderr


def test_runs_json(convatlas: Command, trained: dict[str, Any]) -> None:
    done = convatlas("runs", f"root={Path(trained['run']).parent}", "format=json")
    assert trained["run"] in [run["run"] for run in json.loads(done.stdout)["runs"]]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_or_read_only_disk_is_a_user_error_in_any_library(number: int) -> None:
    wrapped = RuntimeError("a library's")
    wrapped.__cause__ = OSError(number, os.strerror(number), "/data/x.tar")
    reported = cli._reported(wrapped)
    assert isinstance(reported, UserError)
    assert str(reported) == f"/data/x.tar cannot be written ({os.strerror(number)})"
    assert cli._reported(OSError(errno.EIO, "")) is None


def test_a_gpu_without_memory_is_a_user_error() -> None:
    reported = cli._reported(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a"))
    assert isinstance(reported, UserError)
    assert str(reported).startswith("out of memory on the GPU: lower data.global_batch_size, or raise trainer.accum")
    assert str(reported).endswith("(CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a)")


def test_a_reader_that_leaves_ends_the_command_quietly(tmp_path: Path) -> None:
    for arguments in (["--help"], ["check", "--help"], ["list", "model"]):
        command = [sys.executable, "-m", "convatlas", *arguments]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert process.stderr.read() == b""
        assert process.returncode == 128 + signal.SIGPIPE
