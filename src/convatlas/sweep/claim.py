"""Who does which trial: each belongs to one worker at a time, and there are never more than the sweep has."""

from pathlib import Path

from optuna.trial import FrozenTrial, Trial, TrialState

from convatlas.record.directory import RunDirectory
from convatlas.sweep.definition import DEATHS, MAX_RETRIES, NUM_TRIALS, REASON, STOPPED, WORKER, Sweep


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
