"""A worker: does one trial after the other until none is left, or it is told to stop."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from optuna.trial import Trial, TrialState

from convatlas.errors import UserError
from convatlas.record.lock import RunLock
from convatlas.sweep.claim import claim, undecided
from convatlas.sweep.definition import NUM_TRIALS, REASON, STOPPED, Sweep
from convatlas.sweep.result import trial_line, write_table
from convatlas.utils.signals import EXIT_STATUS, StopFlag

POLL_SECONDS = 1.0
"""How often the workers of which it is not known whether they are alive are looked at."""


class Stopped(Exception):  # noqa: N818  no error
    """The trial was told to stop; it goes on from where it is."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Args:
        state: Complete, pruned or failed.
        values: Of the objectives, of a complete one.
        reason: Why it failed.
    """

    state: TrialState
    values: list[float] | None = None
    reason: str | None = None


Body = Callable[[Trial], Outcome]
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


def _tell(sweep: Sweep, trial: Trial, outcome: Outcome) -> None:
    with sweep.mutex():
        if outcome.reason is not None:
            trial.set_user_attr(REASON, outcome.reason)
        ended = sweep.study.tell(trial, outcome.values, outcome.state)
        write_table(sweep)
    trials = sweep.study.get_trials(deepcopy=False)
    count = f"{sum(trial.state.is_finished() for trial in trials)} of {sweep.study.user_attrs[NUM_TRIALS]}"
    sys.stderr.write(f"{trial_line(sweep, ended)}  ({count} ended)\n")
    sys.stderr.flush()
