"""The workers of a sweep on one machine: their ends, their GPUs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convatlas.errors import UserError
from convatlas.jobs import supervisor
from convatlas.jobs.launch import start
from convatlas.jobs.slurm import Resources
from convatlas.sweep import local
from convatlas.sweep.local import WorkersEndedError, work_here
from convatlas.utils.signals import StopFlag


def end_with(
    monkeypatch: pytest.MonkeyPatch, directory: Path, commands: list[str], finished: bool, retries: int = 0
) -> None:
    """Run workers that end as these lines of a shell do."""
    left = iter(commands)
    monkeypatch.setattr(supervisor, "start", lambda *arguments: subprocess.Popen(["sh", "-c", next(left)]))
    monkeypatch.setattr(StopFlag, "listen", lambda flag: None)
    work_here(None, directory, [], len(commands) - retries, retries, lambda: finished)


@pytest.mark.parametrize("commands", [["exit 75", "exit 0"], ["kill -9 $$", "exit 0"], ["exit 2", "exit 0"]])
def test_how_workers_ended_does_not_matter_when_all_trials_have(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, commands: list[str]
) -> None:
    end_with(monkeypatch, tmp_path, commands, finished=True)


def test_the_end_of_a_worker_is_told_when_trials_are_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(WorkersEndedError, match="ended with status -9"):
        end_with(monkeypatch, tmp_path, ["kill -9 $$", "exit 0"], finished=False)
    with pytest.raises(UserError, match="reported a mistake"):
        end_with(monkeypatch, tmp_path, ["exit 2", "exit 75"], finished=False)
    with pytest.raises(SystemExit) as stopped:
        end_with(monkeypatch, tmp_path, ["exit 75", "exit 0"], finished=False)
    assert stopped.value.code == 75
    end_with(monkeypatch, tmp_path, ["kill -9 $$", "exit 0"], finished=False, retries=1)  # others do what is left


def test_workers_that_are_killed_at_once_are_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands, started = iter(["kill -9 $$", "exit 0"]), []

    def start_and_wait(*arguments: object) -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen(["sh", "-c", next(commands)]))
        started[-1].wait()
        return started[-1]

    monkeypatch.setattr(supervisor, "start", start_and_wait)
    monkeypatch.setattr(StopFlag, "listen", lambda flag: None)
    work_here(None, tmp_path, [], 1, 1, lambda: False)
    assert [process.returncode for process in started] == [-9, 0]


def test_workers_of_another_command_have_other_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    resources = Resources(nodes=1, gpus_per_node=1, tasks_per_node=1, cpus_per_task=1, memory=None, time="1:00:00")

    def worker() -> tuple[str, "subprocess.Popen[bytes]"]:
        (variables,), (locked,) = local._environments(resources, tmp_path, 1)
        sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
        process = start(sleeper, tmp_path / "log", variables, keep=locked)
        for file in locked:  # the command is killed
            os.close(file)
        return variables["CUDA_VISIBLE_DEVICES"], process

    first, second = worker(), worker()
    assert (first[0], second[0]) == ("4", "7")
    with pytest.raises(UserError, match=r"num_workers=1: .* need 1, and 0 of this machine are free"):
        worker()
    first[1].kill()
    first[1].wait()
    third = worker()
    assert third[0] == "4"
    for _, process in (second, third):
        process.kill()
        process.wait()
