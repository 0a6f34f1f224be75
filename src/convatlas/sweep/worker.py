"""A sweep worker: it claims one trial after another and runs it, until none is left or it is told to stop."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from optuna.trial import FrozenTrial, Trial, TrialState

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import RunLock
from convatlas.sweep.definition import DEATHS, MAX_RETRIES, NUM_TRIALS, REASON, STOPPED, WORKER, Sweep
from convatlas.sweep.result import trial_line, write_table

EXIT_STATUS = 75
"""What a worker that was told to stop ends with, as a run does."""


POLL_SECONDS = 1.0
"""How often the workers of which it is not known whether they are alive are looked at."""


class Stopped(Exception):  # noqa: N818  no error
    """The trial was told to stop; it goes on from where it is."""


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended.

    Args:
        state: Complete, pruned or failed.
        values: Of the objectives, of a complete one.
        reason: Why it failed.
    """

    state: TrialState
    values: list[float] | None = None
    reason: str | None = None


class StopFlag:
    """Remembers that SIGTERM, SIGUSR1 or Ctrl-C came."""

    def __init__(self) -> None:
        self.received = False

    def listen(self) -> None:
        """Handle the signals from here on."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True


Body = Callable[[Trial], TrialOutcome]
"""Does a trial; raises ``Stopped`` when it is told to stop, ``UserError`` when the sweep or this machine is wrong."""


def work(sweep: Sweep, name: str, body: Body, stop: StopFlag) -> int:
    """Do trials until none is left.

    Args:
        sweep: The sweep.
        name: This worker's; another process that has it is dead.
        body: What a trial is.
        stop: Asked between trials.

    Returns:
        The exit status: 0, or 75 where the worker was told to stop and its trial waits to be taken up.

    Raises:
        UserError: A mistake in the sweep, or on this machine, that a trial has brought to light; the trial stays open.
    """
    folder = sweep.workers / name
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        while not stop.received:
            if (trial := claim(sweep, name)) is None:
                if not undecided(sweep):
                    return 0
                time.sleep(POLL_SECONDS)  # another worker may be dead, and its trial left
                continue
            try:
                _tell(sweep, trial, body(trial))
            except Stopped:
                trial.set_user_attr(STOPPED, True)
                return EXIT_STATUS
            except UserError:  # what is wrong is not the trial: the next would meet it too
                trial.set_user_attr(STOPPED, True)
                raise
    return EXIT_STATUS


def _tell(sweep: Sweep, trial: Trial, outcome: TrialOutcome) -> None:
    with sweep.mutex():
        if outcome.reason is not None:
            trial.set_user_attr(REASON, outcome.reason)
        ended = sweep.study.tell(trial, outcome.values, outcome.state)
        write_table(sweep)
    trials = sweep.study.get_trials(deepcopy=False)
    count = f"{sum(trial.state.is_finished() for trial in trials)} of {sweep.study.user_attrs[NUM_TRIALS]}"
    sys.stderr.write(f"{trial_line(sweep, ended)}  ({count} ended)\n")
    sys.stderr.flush()


def claim(sweep: Sweep, name: str) -> Trial | None:
    """Take a trial that nobody does: first one that a worker has left, else a new one.

    A trial keeps its number from its first claim to its end, whoever does it: the trials of a sweep are numbers 0 to
    N - 1, and counting them under the storage's lock is all that the budget needs.

    Args:
        sweep: The sweep.
        name: The worker that claims; what it may have done in an earlier life is left.

    Returns:
        The trial with its parameters drawn; None where there is nothing to take.
    """
    study = sweep.study
    with sweep.mutex():
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            owner, lock = str(frozen.user_attrs.get(WORKER)), _lock(sweep, frozen)
            if frozen.state != TrialState.RUNNING or (owner != name and sweep.watch.owner(lock) is not None):
                continue
            if owner != name:
                lock.unlink(missing_ok=True)  # one that was only silent for long ends when it sees this
            deaths = frozen.user_attrs.get(DEATHS, 0) + (not frozen.user_attrs.get(STOPPED, False))
            study.sampler = sweep.sampler(frozen.number)
            trial = Trial(study, frozen._trial_id)
            trial.set_user_attr(DEATHS, deaths)
            trial.set_user_attr(STOPPED, False)
            if deaths <= study.user_attrs[MAX_RETRIES]:
                break
            trial.set_user_attr(REASON, f"worker lost: {deaths} workers died while they did it")
            study.tell(trial, state=TrialState.FAIL)
        else:
            if len(trials) >= study.user_attrs[NUM_TRIALS]:
                return None
            study.sampler = sweep.sampler(len(trials))
            trial = study.ask()
        trial.set_user_attr(WORKER, name)
        sweep.space.suggest(trial)
        return trial


def undecided(sweep: Sweep) -> list[Path]:
    """The locks of the workers that have a trial, as far as this process does not know yet whether they are alive."""
    running = sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [lock for lock in (_lock(sweep, trial) for trial in running) if sweep.watch.is_undecided(lock)]


def _lock(sweep: Sweep, trial: FrozenTrial) -> Path:
    return RunDirectory(sweep.workers / str(trial.user_attrs.get(WORKER))).lock
