import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from convatlas.errors import UserError
from convatlas.run import lock
from convatlas.run.lock import RunLock, living_owner
from tests.gates import until


def test_a_second_process_is_refused_with_the_owner_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with RunLock(tmp_path):
        code = (
            "from convatlas.run.lock import RunLock; from pathlib import Path\n"
            f"with RunLock(Path({str(tmp_path)!r})): pass"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        message = done.stderr.splitlines()[-1]
        assert f"is owned by process {os.getpid()} on {os.uname().nodename}, SLURM job 4711, since " in message
        assert "run.fresh=true" in message
        assert living_owner(tmp_path / "lock.json") is not None
    assert not (tmp_path / "lock.json").exists()


def test_it_is_released_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


def test_a_killed_owner_is_dead_at_once(tmp_path: Path) -> None:
    code = (
        "from convatlas.run.lock import RunLock; from pathlib import Path; import os, signal\n"
        f"with RunLock(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert (tmp_path / "lock.json").exists()
    assert living_owner(tmp_path / "lock.json") is None
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("change", "silent", "alive"),
    [
        ({}, 10_000, True),  # on this machine the process itself is asked
        ({"process_start": 1}, 0, False),  # the number was given to another process
        ({"host": "elsewhere"}, 60, True),
        ({"host": "elsewhere"}, 130, False),
    ],
)
def test_who_is_dead(tmp_path: Path, change: dict[str, object], silent: float, alive: bool) -> None:
    path = tmp_path / "lock.json"
    with RunLock(tmp_path):
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
        then = path.stat().st_mtime - silent
        os.utime(path, (then, then))
        assert (living_owner(path) is not None) == alive


@pytest.fixture
def owned_elsewhere(tmp_path: Path) -> Path:
    """The lock of a run that process 1 of job 4711 owns on another machine."""
    path = tmp_path / "lock.json"
    owner = {"host": "elsewhere", "pid": 1, "process_start": 1, "since": "2026", "slurm_job": "4711"}
    path.write_text(json.dumps(owner), encoding="utf-8")
    return path


def while_waiting(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen whenever a process waits for a sign of life."""
    clock = SimpleNamespace(time=time.time, sleep=lambda seconds: happens())
    monkeypatch.setattr(lock, "time", clock)


def test_an_owner_elsewhere_whose_heart_beats_is_alive(
    owned_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    while_waiting(monkeypatch, lambda: os.utime(owned_elsewhere))
    with pytest.raises(UserError, match="process 1 on elsewhere, SLURM job 4711"), RunLock(owned_elsewhere.parent):
        pass
    assert "waiting for a sign of life" in capsys.readouterr().err


@pytest.mark.parametrize("released", [True, False])
def test_an_owner_elsewhere_that_ends_or_stays_silent_makes_room(
    owned_elsewhere: Path, released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if released:
        while_waiting(monkeypatch, owned_elsewhere.unlink)
    else:
        monkeypatch.setattr(lock, "DEAD_SECONDS", 0.3)
        while_waiting(monkeypatch, lambda: time.sleep(0.01))
    with RunLock(owned_elsewhere.parent):
        assert json.loads(owned_elsewhere.read_text(encoding="utf-8"))["pid"] == os.getpid()


def test_an_earlier_attempt_of_the_same_job_is_dead_at_once(
    owned_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "POLL_SECONDS", 1000)
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with RunLock(owned_elsewhere.parent):
        assert living_owner(owned_elsewhere) is not None


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock.json"
    with RunLock(tmp_path):
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0)


def test_an_owner_that_slept_until_another_took_over_ends_without_writing(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from convatlas.run import lock\n"
        f"path = Path({str(tmp_path)!r}); lock.HEARTBEAT_SECONDS = 0.05\n"
        "with lock.RunLock(path):\n"
        "    (path / 'lock.json').write_text('another')\n"
        "    time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "was taken over while this process slept" in done.stderr
    assert (tmp_path / "lock.json").read_text(encoding="utf-8") == "another"


def test_refused_is_not_taken(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        before = (tmp_path / "lock.json").read_text(encoding="utf-8")
        with pytest.raises(UserError), RunLock(tmp_path):
            pass
        assert (tmp_path / "lock.json").read_text(encoding="utf-8") == before
