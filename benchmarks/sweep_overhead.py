"""What a sweep costs beside its trainings: seconds per trial in which no training process lives.

    python -m benchmarks.sweep_overhead [--trials 6]

One worker does a real sweep of small trainings with a journal: claims, draws, composes and names each run, starts its
process, reads its record, asks the pruner, writes down the end. From the worker's whole time that is subtracted in
which a training process lived, its start included.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from convatlas.config.composition import compose_around_train, plain
from convatlas.jobs.launch import start, train_command
from convatlas.sweep.definition import IDENTITY, MAX_RETRIES, NUM_TRIALS, open_sweep, write_sweep
from convatlas.sweep.trial import Training
from convatlas.sweep.worker import work
from convatlas.utils.signals import StopFlag

SMALL = ["experiment=quickstart", "tracking=none", "trainer.max_epochs=2", "trainer.limit_train_batches=6"]


def overheads(count: int) -> tuple[list[float], list[float]]:
    """Seconds beside and within the process of each trial; the worker's start and end count for the first and last."""
    ends: list[float] = []
    starts: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> "subprocess.Popen[bytes]":
        starts.append(time.perf_counter())
        process = start(*args, **kwargs)
        threads.append(threading.Thread(target=wait, args=(process.pid,)))
        threads[-1].start()
        return process

    def wait(pid: int) -> None:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # the worker itself takes its status
        ends.append(time.perf_counter())

    threads: list[threading.Thread] = []
    try:
        with tempfile.TemporaryDirectory() as folder, patch("convatlas.sweep.trial.start", timed):
            config = plain(compose_around_train("sweep", ["sweep=random_asha"]))
            write_sweep(Path(folder), {key: config[key] for key in IDENTITY} | {"train": SMALL}, None)
            began = time.perf_counter()
            sweep = open_sweep(Path(folder))
            sweep.study.set_user_attr(NUM_TRIALS, count)
            sweep.study.set_user_attr(MAX_RETRIES, 0)
            stop = StopFlag()
            work(sweep, "w", Training(sweep, [f"run.root={folder}/runs"], train_command, stop), stop)
            ended = time.perf_counter()
    finally:
        for thread in threads:
            thread.join()
    pauses = [later - earlier for earlier, later in zip([began, *ends], [*starts, ended], strict=True)]
    return _per_trial(pauses), [later - earlier for earlier, later in zip(starts, ends, strict=True)]


def _per_trial(pauses: Sequence[float]) -> list[float]:
    """What came before each trial; with the last one, what came after."""
    return [*pauses[:-2], pauses[-2] + pauses[-1]]


def main() -> None:
    """Do a sweep and print what each trial cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    arguments = parser.parse_args()
    beside, within = overheads(arguments.trials)
    for number, (outside, inside) in enumerate(zip(beside, within, strict=True)):
        print(f"trial {number}: {outside:.2f} s beside its process, which lived {inside:.1f} s", flush=True)
    print(f"mean {statistics.mean(beside):.2f} s, largest {max(beside):.2f} s per trial beside the training processes")


if __name__ == "__main__":
    main()
