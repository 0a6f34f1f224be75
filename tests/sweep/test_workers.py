"""Workers that share trials out, as real processes: none is lost, none is done twice."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from convatlas.errors import UserError
from convatlas.record.lock import Owner
from convatlas.sweep.definition import DEATHS, NUM_TRIALS, REASON, Sweep, open_sweep
from convatlas.sweep.storage import VARIABLE, address
from convatlas.sweep.worker import Stopped, TrialOutcome, claim, work
from convatlas.utils.signals import StopFlag
from tests.gates import PATIENCE, until
from tests.sweep.definitions import make_sweep

DATABASE = os.environ.get("CONVATLAS_TEST_DATABASE")
WORKER = Path(__file__).with_name("busy_worker.py")


def start(directory: Path, name: str, seconds: float = 0, together: int = 1) -> "subprocess.Popen[str]":
    command = [sys.executable, str(WORKER), str(directory), name, str(together), str(seconds)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait(processes: list["subprocess.Popen[str]"]) -> None:
    errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), errors


def done(directory: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[0]) for path in (directory / "done").iterdir())


def ended(sweep: Sweep) -> list[int]:
    return [trial.number for trial in sweep.study.get_trials() if trial.state.is_finished()]


@pytest.mark.slow
def test_ten_workers_on_one_journal_do_each_of_200_trials_once(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", 200)
    wait([start(sweep.directory, f"w{number}", together=10) for number in range(10)])
    assert done(sweep.directory) == ended(sweep) == list(range(200))
    trials = sweep.study.get_trials()
    assert {trial.number for trial in trials if trial.state == TrialState.FAIL} == set(range(3, 200, 7))
    assert len({trial.user_attrs["worker"] for trial in trials}) == 10
    with (sweep.directory / "trials.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["number"]) for row in table] == list(range(200))
    assert float(table[0]["val/top1"]) == trials[0].params["rate"]
    assert table[3]["reason"] == "crashed: by intention"


def test_each_point_of_a_grid_is_done_once_though_workers_are_killed(tmp_path: Path) -> None:
    space = {
        "kind": {"_target_": "convatlas.sweep.space.Choice", "key": "kind", "values": list("abcde")},
        "rate": {"_target_": "convatlas.sweep.space.Float", "key": "r", "low": 0.1, "high": 0.4, "step": 0.1},
    }
    sampler = {"_target_": "convatlas.sweep.grid.Grid", "space": space}
    sweep = make_sweep(tmp_path / "s", 20, space=space, sampler=sampler)
    victims = [start(sweep.directory, f"v{number}", PATIENCE) for number in range(3)]
    until(lambda: (sweep.directory / "done").is_dir() and len(done(sweep.directory)) == 3)
    for victim in victims:
        victim.kill()
        victim.communicate()
    wait([start(sweep.directory, f"w{number}") for number in range(3)])
    assert ended(sweep) == list(range(20))
    points = [(trial.params["kind"], trial.params["rate"]) for trial in sweep.study.get_trials()]
    assert sorted(points) == [(kind, rate) for kind in "abcde" for rate in (0.1, 0.2, 0.3, 0.4)]
    assert done(sweep.directory) == sorted([0, 1, 2, *range(20)])  # taken up again, under their numbers


def test_a_stopped_worker_goes_on_with_its_trial_and_a_death_is_counted(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", 3)
    worker = start(sweep.directory, "job-1", PATIENCE)
    until(lambda: (sweep.directory / "done").is_dir() and done(sweep.directory))
    worker.send_signal(signal.SIGUSR1)
    worker.communicate()
    assert worker.returncode == 75
    (before,) = sweep.study.get_trials()
    again = claim(sweep, "job-1")
    assert again is not None
    assert (again.number, again.params, again.user_attrs[DEATHS]) == (0, before.params, 0)
    again = claim(sweep, "job-1")  # whoever has this name now has lost its trial
    assert again is not None
    assert (again.number, again.user_attrs[DEATHS]) == (0, 1)


def test_a_trial_whose_workers_keep_dying_fails_in_the_end(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", 2)
    claimed = [claim(sweep, f"dead-{number}") for number in range(5)]
    assert [trial and trial.number for trial in claimed] == [0, 0, 0, 1, 1]
    assert sweep.study.get_trials()[0].state == TrialState.FAIL
    assert sweep.study.get_trials()[0].user_attrs[REASON] == "worker lost: 3 workers died while they did it"


@pytest.mark.parametrize("beats", [True, False])
def test_a_trial_of_a_worker_elsewhere_is_taken_only_after_two_minutes_without_a_heartbeat(
    beats: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of its lock, which that machine's clock has set an hour ago, says nothing."""
    sweep = make_sweep(tmp_path / "s", 1)
    assert claim(sweep, "elsewhere") is not None
    path = sweep.workers / "elsewhere" / "lock.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(replace(Owner.this_process(), host="elsewhere"))), encoding="utf-8")
    os.utime(path, (time.time() - 3600, time.time() - 3600))
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if beats:
            os.utime(path, (now, now))

    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("time.sleep", sleep)
    assert work(sweep, "here", complete, StopFlag()) == 0
    assert ended(sweep) == ([] if beats else [0])
    assert now == (1.0 if beats else 120.0)


def complete(trial: object) -> TrialOutcome:
    return TrialOutcome(TrialState.COMPLETE, [0.5])


def test_a_larger_budget_extends_a_sweep_and_a_used_budget_gives_no_trial(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", 2)
    assert work(sweep, "w", complete, StopFlag()) == 0
    assert claim(sweep, "w") is None
    sweep.study.set_user_attr(NUM_TRIALS, 3)
    assert work(open_sweep(sweep.directory), "w", complete, StopFlag()) == 0
    assert ended(sweep) == [0, 1, 2]


def test_the_draws_of_a_trial_depend_on_its_number_and_not_on_its_worker(tmp_path: Path) -> None:
    first, second = make_sweep(tmp_path / "a", 9), make_sweep(tmp_path / "b", 9)
    for number in range(9):
        claim(first, f"one-{os.getpid()}")
        first.study.tell(number, 0.1)
    for number in range(9):
        claim(open_sweep(second.directory), f"worker-{number}")
        second.study.tell(number, 0.9)
    drawn = [[trial.params for trial in sweep.study.get_trials()] for sweep in (first, second)]
    assert drawn[0] == drawn[1]
    assert len({params["rate"] for params in drawn[0]}) == 9


def test_a_torn_last_line_of_a_journal_is_cut_before_the_next(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path / "s", 3)
    claim(sweep, "w")
    with (sweep.directory / "journal.log").open("a", encoding="utf-8") as file:
        file.write('{"op_code": 4, "wor')
    again = open_sweep(sweep.directory)
    assert claim(again, "w") is not None
    assert [trial.number for trial in open_sweep(sweep.directory).study.get_trials()] == [0]


@pytest.mark.parametrize("error", [Stopped, UserError, KeyboardInterrupt])
def test_a_trial_that_did_not_end_stays_open(tmp_path: Path, error: type[BaseException]) -> None:
    sweep = make_sweep(tmp_path / "s", 1)

    def body(trial: object) -> TrialOutcome:
        raise error

    if error is Stopped:
        assert work(sweep, "w", body, StopFlag()) == 75
    else:
        with pytest.raises(error):
            work(sweep, "w", body, StopFlag())
    assert [trial.state for trial in sweep.study.get_trials()] == [TrialState.RUNNING]
    again = claim(sweep, "w")
    assert again is not None
    assert again.user_attrs[DEATHS] == (error is KeyboardInterrupt)


@pytest.mark.parametrize("text", ["me:secret@host/db", "me@host/db?password=secret", "host/db?user=me&passwd=secret"])
def test_the_address_of_a_database_is_kept_without_its_password(text: str) -> None:
    kept = address(f"postgresql://{text}")
    assert kept is not None
    assert kept.endswith("host/db")
    assert "secret" not in kept


def test_a_sweep_has_a_study_of_its_own_wherever_its_trials_are(tmp_path: Path) -> None:
    names = [make_sweep(tmp_path / root / "s", 1).study.study_name for root in ("mine", "yours", "mine")]
    assert names[0] == names[2] != names[1]


@pytest.mark.slow
@pytest.mark.skipif(DATABASE is None, reason="CONVATLAS_TEST_DATABASE=postgresql://… gives no database to test with")
def test_workers_on_a_database_do_each_trial_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(DATABASE))
    sweep = make_sweep(tmp_path / f"s-{time.time_ns()}", 60, DATABASE)
    wait([start(sweep.directory, f"w{number}") for number in range(4)])
    assert done(sweep.directory) == ended(sweep) == list(range(60))


def test_a_worker_that_is_done_ignores_the_signals_until_it_has_exited(tmp_path: Path) -> None:
    """Python drops the handlers of a script late in its exit, and the default ones would end the process."""
    sweep = make_sweep(tmp_path / "s", 0)
    script = (
        "import atexit, os, runpy, signal\n"
        "at_exit = lambda: signal.getsignal(signal.SIGUSR1) is signal.getsignal(signal.SIGTERM) is signal.SIG_IGN\n"
        "atexit.register(lambda: at_exit() or os._exit(9))\n"
        "runpy.run_module('convatlas.sweep', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(sweep.directory), "w"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
