"""A worker whose trials take no time: python busy_worker.py DIRECTORY NAME [SECONDS]. Each trial leaves a file."""

import os
import sys
import time
from pathlib import Path

from optuna.trial import Trial, TrialState

from convatlas.sweep.definition import open_sweep
from convatlas.sweep.worker import Outcome, StopFlag, Stopped, work

directory, name, seconds = Path(sys.argv[1]), sys.argv[2], float([*sys.argv, "0"][3])
stop = StopFlag()
stop.listen()


def body(trial: Trial) -> Outcome:
    (directory / "done" / f"{trial.number}-{name}-{os.getpid()}").touch()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if stop.received:
            raise Stopped
        time.sleep(0.02)
    if trial.number % 7 == 3:
        return Outcome(TrialState.FAIL, reason="crashed: by intention")
    return Outcome(TrialState.COMPLETE, [trial.params["rate"]])


(directory / "done").mkdir(exist_ok=True)
sys.exit(work(open_sweep(directory), name, body, stop))
