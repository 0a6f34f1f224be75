"""What surviving costs: checkpoints every five minutes and the local record, as a share of the training time.

    python -m benchmarks.survival_cost [--epochs 3] [--pairs 3]

Trains the quickstart's network with a checkpoint every 20 steps, and takes the time within the calls that write the
record, and within those that write a checkpoint. The record's share is taken as it is; a checkpoint's time is set
against the five minutes until the next one, as `run.checkpoint_minutes` has it. Both shares come from one run.
"""

import argparse
import functools
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from convatlas.config import compose
from convatlas.run.saving import RunCheckpoints
from convatlas.tracking.local_record import LocalRecord
from pipelines.train import train

PERIOD = 300.0
"""Seconds between two checkpoints within an epoch, by default."""
TIMED = {"record": (LocalRecord, "log_metrics"), "checkpoint": (RunCheckpoints, "_save_last")}


def shares(epochs: int) -> tuple[float, float]:
    """The shares of the record and of the checkpoints in the time of one training."""
    seconds: dict[str, list[float]] = defaultdict(list)
    originals = {name: getattr(owner, method) for name, (owner, method) in TIMED.items()}
    for name, (owner, method) in TIMED.items():
        setattr(owner, method, _timed(originals[name], seconds[name]))
    overrides = ["experiment=quickstart", "tracking=none", f"trainer.max_epochs={epochs}", "run.checkpoint_steps=20"]
    try:
        with tempfile.TemporaryDirectory() as root:
            result = train(compose("train", [*overrides, "trainer.limit_test_batches=2", f"run.root={root}"]))
    finally:
        for name, (owner, method) in TIMED.items():
            setattr(owner, method, originals[name])
    training = result["train_seconds"] - sum(seconds["checkpoint"])
    return sum(seconds["record"]) / training, statistics.median(seconds["checkpoint"]) / PERIOD


def _timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result

    return timed


def main() -> None:
    """Measure some trainings and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    measured = []
    for number in range(arguments.pairs):
        record, checkpoint = shares(arguments.epochs)
        measured.append(record + checkpoint)
        print(
            f"training {number + 1}: record {100 * record:.3f} %, a checkpoint in 5 minutes {100 * checkpoint:.3f} %",
            flush=True,
        )
    print(f"median of both together: {100 * statistics.median(measured):.3f} % of the training time")


if __name__ == "__main__":
    main()
