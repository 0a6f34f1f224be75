import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convatlas.errors import UserError
from convatlas.run import lock
from convatlas.run.lock import RunLock, living_owner


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
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        then = path.stat().st_mtime - silent
        os.utime(path, (then, then))
        assert (living_owner(path) is not None) == alive


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock.json"
    with RunLock(tmp_path):
        os.utime(path, (0, 0))
        for _ in range(500):
            if path.stat().st_mtime > 0:
                return
            time.sleep(0.01)
    pytest.fail("no beat in five seconds")


def test_refused_is_not_taken(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        before = (tmp_path / "lock.json").read_text()
        with pytest.raises(UserError), RunLock(tmp_path):
            pass
        assert (tmp_path / "lock.json").read_text() == before
