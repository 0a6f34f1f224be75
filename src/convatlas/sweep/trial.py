"""A trial of a sweep: a run of ``convatlas train`` in its own processes, watched by its worker."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from omegaconf import DictConfig
from optuna.trial import Trial, TrialState

from convatlas.config.composition import check_config, compose, plain
from convatlas.config.stored import TRAINING, check_stored
from convatlas.data.module import ImageDataModule
from convatlas.errors import DivergedError, UnreadableError, UserError
from convatlas.jobs.launch import end, start
from convatlas.jobs.supervisor import failure_message, output_since
from convatlas.record.directory import RunDirectory
from convatlas.record.lock import Watch
from convatlas.sweep.definition import FILE, RUN, Sweep
from convatlas.sweep.objective import Reports
from convatlas.sweep.worker import Stopped, TrialOutcome
from convatlas.training.plan import TYPES, plan_run
from convatlas.utils.signals import EXIT_STATUS, STOP_SIGNALS, StopFlag

POLL_SECONDS = 0.5
"""Seconds between two checks of the record and of the stop flag."""
TOLD_STATUSES = (EXIT_STATUS, *(-number for number in STOP_SIGNALS), *(128 + number for number in STOP_SIGNALS))
"""Exit statuses of a training that was told to stop; the last ones from srun, before the training handles signals."""
KILLED_STATUSES = (-signal.SIGKILL, 128 + signal.SIGKILL)
NO_MEMORY = re.compile(r"out of memory|OutOfMemoryError|MemoryError|oom[-_ ]kill|can't allocate memory", re.IGNORECASE)
OWNED = re.compile(r"^convatlas: error: run .* is owned by process", re.MULTILINE)
"""Message of a training whose run another process took first. Its exit status depends on the launcher."""


class Training:
    """Runs a trial by training.

    Args:
        sweep: The sweep.
        overrides: Overrides that this worker adds: devices and the root of the runs.
        launch: Returns the command of a training from its overrides.
        stop: The flag that tells the worker to stop.
    """

    def __init__(
        self, sweep: Sweep, overrides: Sequence[str], launch: Callable[[Sequence[str]], list[str]], stop: StopFlag
    ) -> None:
        self.sweep = sweep
        self.overrides = list(overrides)
        self.launch = launch
        self.stop = stop
        self._opened: dict[str, ImageDataModule] = {}

    def __call__(self, trial: Trial) -> TrialOutcome:
        """Train to the end, or until the pruner ends the trial.

        Raises:
            Stopped: The worker or the training was told to stop.
            UserError: The runs do not have the objective, or the images on this machine are wrong.
        """
        overrides = [*self.sweep.train, *self.sweep.space.overrides(self.sweep.space.suggest(trial)), *self.overrides]
        try:
            config = compose("train", overrides)
            check_stored(plain(config), TRAINING, str(self.sweep.directory / FILE))  # the overrides come from a file
            check_config(config, TYPES)
        except UserError as error:
            return TrialOutcome(TrialState.FAIL, reason=f"refused: {error}")
        run, _ = plan_run(config, self._opened)
        trial.set_user_attr(RUN, run.path.name)
        try:
            return self._train(trial, run, config, overrides)
        except UnreadableError as error:
            return TrialOutcome(TrialState.FAIL, reason=f"damaged: {error}")

    def _train(self, trial: Trial, run: RunDirectory, config: DictConfig, overrides: Sequence[str]) -> TrialOutcome:
        reports = None
        if len(self.sweep.objectives) == 1 and self.sweep.objectives[0].by_epoch:
            reports = Reports(trial, self.sweep.objectives[0], run, config.trainer.max_epochs)
        log = self.sweep.directory / "logs" / f"trial-{trial.number:04d}.log"
        log.parent.mkdir(exist_ok=True)
        while True:
            self._wait_for_owner(run)
            written = log.stat().st_size if log.exists() else 0
            process = start(self.launch(overrides), log, die_with_parent=True)
            try:
                pruned = self._watch(process, reports)
            except UnreadableError:  # the run cannot be followed
                end(process, signal.SIGTERM)
                process.wait()
                raise
            said = output_since(log, written)
            if pruned or not OWNED.search(said):  # a trial with the same parameters may have taken the run meanwhile
                break
        if run.finished:
            return self._complete(run)
        if pruned:
            return TrialOutcome(TrialState.PRUNED)
        if self.stop.received or process.returncode in TOLD_STATUSES:
            raise Stopped
        return TrialOutcome(TrialState.FAIL, reason=reason(run, process.returncode, said))

    def _complete(self, run: RunDirectory) -> TrialOutcome:
        try:
            return TrialOutcome(TrialState.COMPLETE, [objective.of(run) for objective in self.sweep.objectives])
        except DivergedError as error:
            return TrialOutcome(TrialState.FAIL, reason=f"diverged: {error}")

    def _wait_for_owner(self, run: RunDirectory) -> None:
        """Wait until no process owns the run: an orphaned training stops, or an equal trial finishes."""
        watch = Watch()
        while not self.stop.received and watch.owner(run.lock) is not None:
            time.sleep(POLL_SECONDS)
        if self.stop.received:
            raise Stopped

    def _watch(self, process: "subprocess.Popen[bytes]", reports: Reports | None) -> bool:
        """Wait for a training to end. Stop it if the worker is told to stop or if the pruner decides so.

        Returns:
            Whether the pruner stopped it.
        """
        pruned = told = False
        while True:
            try:
                process.wait(POLL_SECONDS)
                return pruned
            except subprocess.TimeoutExpired:
                pass
            if not told:
                pruned = reports is not None and reports.should_prune()
                told = pruned or bool(self.stop.received)
                if told:
                    end(process, signal.SIGTERM)


def reason(run: RunDirectory, status: int, log: str) -> str:
    """Describe why a training failed, in one line that begins with the kind of failure.

    Args:
        run: Its run.
        status: Exit status of its process, as in ``subprocess``.
        log: Its output.
    """
    said = failure_message(log) or f"status {status}"
    if run.summary.get("state") == "failed":
        kind, _, said = run.summary.get("reason", "").partition(": ")
        said = " ".join(said.split())[:300]
        if kind == "DivergedError":
            return f"diverged: {said}"
        if kind not in ("UserError", "RankLostError"):
            said = f"{kind}: {said}"
    if NO_MEMORY.search(log) or NO_MEMORY.search(said):
        return f"out of memory: {said}"
    if status in KILLED_STATUSES:
        return "killed: by SIGKILL, as the kernel does when memory runs out"
    return f"crashed: {said}"
