import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from convatlas.errors import UserError
from convatlas.record import lock
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import Owner, RunLock, Watch, run_state
from tests.gates import until


def test_a_second_process_is_refused_with_the_owner_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    with RunLock(tmp_path):
        code = (
            "from convatlas.record.lock import RunLock; from pathlib import Path\n"
            f"with RunLock(Path({str(tmp_path)!r})): pass"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        message = done.stderr.splitlines()[-1]
        assert f"is owned by process {os.getpid()} on {os.uname().nodename}, SLURM job 4711, since " in message
        assert "run.fresh=true" in message
        assert Watch().owner(tmp_path / "lock.json") is not None
    assert not (tmp_path / "lock.json").exists()


def test_it_is_released_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


def test_a_killed_owner_is_dead_at_once(tmp_path: Path) -> None:
    code = (
        "from convatlas.record.lock import RunLock; from pathlib import Path; import os, signal\n"
        f"with RunLock(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert (tmp_path / "lock.json").exists()
    assert Watch().owner(tmp_path / "lock.json") is None
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("change", "alive"),
    [
        ({}, True),
        ({"process_start": 1}, False),  # the number was given to another process
        ({"numbering": ""}, True),  # a lock of an older version
        ({"process_start": 1, "numbering": ""}, False),
        ({"host": "elsewhere"}, None),
        ({"numbering": "another boot"}, None),  # another machine of the same name
        ({"numbering": "another container", "process_start": 1}, None),
        ({"host": "elsewhere", "slurm_job": "4711", "slurm_restart": 0}, False),  # this is the job's second start
        ({"host": "elsewhere", "slurm_job": "4711", "slurm_restart": 1}, None),
        ({"host": "elsewhere", "slurm_job": "4712", "slurm_restart": 0}, None),
    ],
)
@pytest.mark.parametrize("file_time", [0, 2e9, 4e9])
def test_who_is_alive_does_not_depend_on_clocks(
    tmp_path: Path,
    change: dict[str, object],
    alive: bool | None,
    file_time: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    path = tmp_path / "lock.json"
    content = {key: value for key, value in (asdict(Owner.this_process()) | change).items() if value != ""}
    path.write_text(json.dumps(content), encoding="utf-8")
    os.utime(path, (file_time, file_time))
    assert Owner(**content).is_alive() is alive
    owner = Watch().owner(path)
    assert (owner is None) == (alive is False)


def test_a_process_of_another_user_that_proc_hides_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_permitted(pid: int, number: int) -> None:
        raise PermissionError

    owner = replace(Owner.this_process(), pid=2**22 + 1)  # beyond what Linux gives away
    assert owner.is_alive() is False
    monkeypatch.setattr("os.kill", not_permitted)
    assert owner.is_alive() is None


@pytest.fixture
def owned_elsewhere(tmp_path: Path) -> Path:
    """The lock of a run that process 1 of job 4711 owns on another machine."""
    path = tmp_path / "lock.json"
    owner = {"host": "elsewhere", "pid": 1, "process_start": 1, "since": "2026", "slurm_job": "4711"}
    path.write_text(json.dumps(owner), encoding="utf-8")
    return path


def while_waiting(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen whenever a process waits for a sign of life."""
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=lambda seconds: happens())
    monkeypatch.setattr(lock, "time", clock)


def test_an_owner_elsewhere_whose_heart_beats_is_alive(
    owned_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    while_waiting(monkeypatch, lambda: os.utime(owned_elsewhere))
    with pytest.raises(UserError, match="process 1 on elsewhere, SLURM job 4711"), RunLock(owned_elsewhere.parent):
        pass
    assert "waiting for a sign of life" in capsys.readouterr().err


class Clock:
    """A monotonic clock that moves while one sleeps, and what happens in the meantime."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, during: Callable[[float], None]) -> None:
        self.now, self.during = 5.0, during
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.during(self.now - 5)


@pytest.mark.parametrize("ahead", [-3600, 0, 3600])
def test_an_owner_elsewhere_is_dead_after_two_minutes_of_our_own_clock(
    owned_elsewhere: Path, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far the other machine's clock is from ours."""
    os.utime(owned_elsewhere, (time.time() + ahead, time.time() + ahead))
    monkeypatch.setattr(lock, "POLL_SECONDS", 1.0)
    clock = Clock(monkeypatch, lambda second: None)
    with RunLock(owned_elsewhere.parent):
        assert json.loads(owned_elsewhere.read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert clock.now - 5 == 120


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_an_owner_elsewhere_whose_clock_differs_is_alive_while_its_heart_beats(
    owned_elsewhere: Path, ahead: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = owned_elsewhere.read_bytes()
    start = time.time() + ahead
    os.utime(owned_elsewhere, (start, start))

    def beat(second: float) -> None:
        if second >= 119:  # late, but it does
            os.utime(owned_elsewhere, (start + second, start + second))

    monkeypatch.setattr(lock, "POLL_SECONDS", 1.0)
    Clock(monkeypatch, beat)
    with pytest.raises(UserError, match="process 1 on elsewhere, SLURM job 4711"), RunLock(owned_elsewhere.parent):
        pass
    assert owned_elsewhere.read_bytes() == content


def test_an_outage_of_the_file_system_is_no_silence(owned_elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that took ten minutes to answer counts as one heartbeat missed: the owner could not write either."""
    clock = Clock(monkeypatch, lambda second: None)
    watch = Watch()
    assert watch.owner(owned_elsewhere) is not None
    clock.now += 600
    assert watch.owner(owned_elsewhere) is not None
    assert watch.is_undecided(owned_elsewhere)
    os.utime(owned_elsewhere, (1, 1))
    assert watch.owner(owned_elsewhere) is not None
    assert not watch.is_undecided(owned_elsewhere)


@pytest.mark.parametrize(
    ("silent", "change", "expected"),
    [
        (130, {"host": "elsewhere"}, "no sign of life since 20"),
        (60, {"host": "elsewhere"}, "running"),
        (-3600, {"host": "elsewhere"}, "running"),
        (10_000, {}, "running"),
        (0, {"process_start": 1}, "interrupted"),
    ],
)
def test_a_list_tells_of_silence_and_does_not_call_it_death(
    tmp_path: Path, silent: float, change: dict[str, object], expected: str
) -> None:
    (tmp_path / "summary.json").write_text('{"state": "running"}', encoding="utf-8")
    path = tmp_path / "lock.json"
    path.write_text(json.dumps(asdict(Owner.this_process()) | change), encoding="utf-8")
    then = time.time() - silent
    os.utime(path, (then, then))
    assert run_state(RunDirectory(tmp_path)).startswith(expected)


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
        assert Watch().owner(owned_elsewhere) is not None


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "lock.json"
    with RunLock(tmp_path):
        os.utime(path, (0, 0))
        until(lambda: path.stat().st_mtime > 0)


def test_an_owner_that_slept_until_another_took_over_ends_without_writing(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path; from convatlas.record import lock\n"
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
