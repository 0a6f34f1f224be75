"""A sweep worker: it claims one trial after another and runs it, until none is left or it is told to stop."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial, Trial, TrialState

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import RunLock
from convatlas.sweep.definition import DEATHS, MAX_RETRIES, NUM_TRIALS, REASON, STOPPED, WORKER, Sweep
from convatlas.sweep.result import trial_line, write_table
from convatlas.utils.internals import private
from convatlas.utils.signals import EXIT_STATUS, StopFlag

POLL_SECONDS = 1.0
"""Seconds between two checks of workers that may be dead."""


class Stopped(Exception):  # noqa: N818  not an error
    """The trial was told to stop; it can be continued."""


@dataclass(frozen=True)
class TrialOutcome:
    """The outcome of a trial.

    Args:
        state: Complete, pruned or failed.
        values: Values of the objectives, of a complete trial.
        reason: Why the trial failed.
    """

    state: TrialState
    values: list[float] | None = None
    reason: str | None = None


Body = Callable[[Trial], TrialOutcome]
"""Runs a trial. Raises ``Stopped`` if it is told to stop, ``UserError`` for a mistake of sweep or machine."""


def work(sweep: Sweep, name: str, body: Body, stop: StopFlag) -> int:
    """Run trials until none is left.

    Args:
        sweep: The sweep.
        name: Name of this worker; an earlier process of this name is dead.
        body: Runs a trial.
        stop: Checked between trials.

    Returns:
        The exit status: 0, or 75 if the worker was told to stop; its trial can then be continued.

    Raises:
        UserError: A trial found a mistake in the sweep or on this machine; the trial stays open.
    """
    folder = sweep.workers / name
    folder.mkdir(parents=True, exist_ok=True)
    with RunLock(folder):
        while not stop.received:
            if (trial := claim(sweep, name)) is None:
                if not undecided(sweep):
                    return 0
                time.sleep(POLL_SECONDS)  # another worker may be dead; its trial is then free
                continue
            try:
                _tell(sweep, trial, body(trial))
            except Stopped:
                trial.set_user_attr(STOPPED, True)
                return EXIT_STATUS
            except UserError:  # the mistake is not the trial's, so the next trial would fail as well
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
    """Claim an abandoned trial if there is one; otherwise create a new one.

    A trial keeps its number when another worker continues it. So the trials of a sweep are numbered 0 to N - 1, and
    counting them under the lock of the storage enforces the budget.

    Args:
        sweep: The sweep.
        name: The worker that claims. A trial of an earlier process of this name is abandoned.

    Returns:
        The trial with its parameters; None if there is no trial to claim.
    """
    study = sweep.study
    with sweep.mutex():
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            owner, lock = str(frozen.user_attrs.get(WORKER)), _lock(sweep, frozen)
            if frozen.state != TrialState.RUNNING or (owner != name and sweep.watch.owner(lock) is not None):
                continue
            if owner != name:
                lock.unlink(missing_ok=True)  # a worker that was only silent ends when it sees this
            deaths = frozen.user_attrs.get(DEATHS, 0) + (not frozen.user_attrs.get(STOPPED, False))
            study.sampler = sweep.sampler(frozen.number)
            trial = Trial(study, private(frozen, "_trial_id", "optuna>=5"))
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
    """The locks of workers with a running trial that may be alive or dead."""
    running = sweep.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [lock for lock in (_lock(sweep, trial) for trial in running) if sweep.watch.is_undecided(lock)]


def _lock(sweep: Sweep, trial: FrozenTrial) -> Path:
    return RunDirectory(sweep.workers / str(trial.user_attrs.get(WORKER))).lock
