"""Ending trials early: what a run records after each epoch goes to Optuna, whose pruner decides."""

from optuna.trial import Trial

from convatlas.record.directory import RunDirectory
from convatlas.record.lines import LineReader
from convatlas.sweep.objective import Objective


class Reports:
    """Reads the record of a run that trains, and reports the objective by the number of epochs that are done.

    Args:
        trial: The trial, whose sweep has one objective. One that is taken up again has its earlier reports.
        objective: The objective.
        run: Its run.
        max_epochs: Epochs of the run; after the last it is left to end.
    """

    def __init__(self, trial: Trial, objective: Objective, run: RunDirectory, max_epochs: int) -> None:
        self._trial = trial
        self._objective = objective
        self._max_epochs = max_epochs
        self._lines = LineReader(run.metrics)
        self._reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def should_prune(self) -> bool:
        """Report what was recorded since the last call; whether the trial is to end."""
        for line in self._lines.new():
            if self._objective.metric not in line:
                continue
            epochs = line["epoch"] + 1
            if epochs not in self._reported:
                self._reported.add(epochs)
                self._trial.report(float(line[self._objective.metric]), epochs)
            if epochs < self._max_epochs and self._trial.should_prune():
                return True
        return False
