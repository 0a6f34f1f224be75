"""A worker whose trials leave a file each: python busy_worker.py DIRECTORY NAME TOGETHER [SECONDS].

A trial takes some seconds, and ends when so many workers have begun one together.
"""

import os
import sys
import time
from pathlib import Path

from optuna.trial import Trial, TrialState

from convatlas.sweep.definition import open_sweep
from convatlas.sweep.worker import Stopped, TrialOutcome, work
from convatlas.utils.signals import StopFlag

directory, name, together, seconds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
stop = StopFlag()
stop.listen()


def begun() -> set[str]:
    return {path.name.split("-")[1] for path in (directory / "done").iterdir()}


def body(trial: Trial) -> TrialOutcome:
    (directory / "done" / f"{trial.number}-{name}-{os.getpid()}").touch()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(begun()) < together:
        if stop.received:
            raise Stopped
        time.sleep(0.02)
    if trial.number % 7 == 3:
        return TrialOutcome(TrialState.FAIL, reason="crashed: by intention")
    return TrialOutcome(TrialState.COMPLETE, [trial.params["rate"]])


(directory / "done").mkdir(exist_ok=True)
sys.exit(work(open_sweep(directory), name, body, stop))
