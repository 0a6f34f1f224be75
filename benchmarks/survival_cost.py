"""What surviving costs: checkpoints every five minutes and the local record, as a share of the training time.

    python -m benchmarks.survival_cost [--epochs 3] [--pairs 3]

Trains the quickstart's network with a checkpoint every 20 steps, and takes the time within the calls that write the
record, and within those that write a checkpoint. The record's share is taken as it is; a checkpoint's time is set
against the five minutes until the next one, as `run.checkpoint_minutes` has it. Both shares come from one run.

What makes the writes durable, fsync and rename, is measured on its own: milliseconds for a checkpoint and for the
rest of the run, and the share of both in the quickstart as it is, with a checkpoint at the end of each epoch.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convatlas.config.composition import compose
from convatlas.tracking.local import LocalRecord
from convatlas.training.callbacks.checkpointing import RunCheckpoints
from pipelines.train import train

PERIOD = 300.0
"""Seconds between two checkpoints within an epoch, by default."""
TIMED: dict[str, tuple[Any, str]] = {
    "record": (LocalRecord, "log_metrics"),
    "checkpoint": (RunCheckpoints, "_save_last"),
    "commit": (RunCheckpoints, "_commit"),
    "fsync": (os, "fsync"),
    "rename": (os, "replace"),
}


@dataclass(frozen=True)
class Cost:
    """The measured cost of surviving in one training.

    Attributes:
        record: Share of the record in the time of the training.
        checkpoint: Share of a checkpoint in five minutes.
        checkpoint_syncs: Seconds of fsync and rename for each checkpoint.
        run_syncs: Seconds of fsync and rename for the rest of the run, ``best.ckpt`` included.
        quickstart_syncs: Share of both in the quickstart's time, in which each epoch has one checkpoint.
    """

    record: float
    checkpoint: float
    checkpoint_syncs: float
    run_syncs: float
    quickstart_syncs: float


def measure(epochs: int) -> Cost:
    """Train once, and take the time of what makes the run survive."""
    seconds: dict[str, list[float]] = defaultdict(list)
    synced = {"checkpoints": 0.0}
    originals = {name: getattr(owner, method) for name, (owner, method) in TIMED.items()}
    for name, (owner, method) in TIMED.items():
        timed = _timed(originals[name], seconds[name])
        if name in ("checkpoint", "commit"):
            timed = _counted(timed, lambda: sum(seconds["fsync"]) + sum(seconds["rename"]), synced)
        setattr(owner, method, timed)
    overrides = ["experiment=quickstart", "tracking=none", f"trainer.max_epochs={epochs}", "run.checkpoint_steps=20"]
    try:
        with tempfile.TemporaryDirectory() as root:
            result = train(compose("train", [*overrides, "trainer.limit_test_batches=2", f"run.root={root}"]))
    finally:
        for name, (owner, method) in TIMED.items():
            setattr(owner, method, originals[name])
    training = result["train_seconds"] - sum(seconds["checkpoint"])
    syncs = sum(seconds["fsync"]) + sum(seconds["rename"])
    per_checkpoint = synced["checkpoints"] / len(seconds["checkpoint"])
    once = syncs - synced["checkpoints"]
    return Cost(
        sum(seconds["record"]) / training,
        statistics.median(seconds["checkpoint"]) / PERIOD,
        per_checkpoint,
        once,
        (per_checkpoint * epochs + once) / training,
    )


def _counted(function: Callable[..., Any], spent: Callable[[], float], total: dict[str, float]) -> Callable[..., Any]:
    """Add up what is spent on syncs within a function."""

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        before = spent()
        result = function(*args, **kwargs)
        total["checkpoints"] += spent() - before
        return result

    return counted


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
        cost = measure(arguments.epochs)
        measured.append(cost)
        print(
            f"training {number + 1}: record {100 * cost.record:.3f} %, a checkpoint in 5 minutes "
            f"{100 * cost.checkpoint:.3f} %; fsync and rename {1000 * cost.checkpoint_syncs:.1f} ms a checkpoint, "
            f"{1000 * cost.run_syncs:.1f} ms for the rest, {100 * cost.quickstart_syncs:.3f} % of the quickstart",
            flush=True,
        )
    both = statistics.median(cost.record + cost.checkpoint for cost in measured)
    syncs = statistics.median(cost.quickstart_syncs for cost in measured)
    print(f"median of record and checkpoints: {100 * both:.3f} % of the training time; of syncs: {100 * syncs:.3f} %")


if __name__ == "__main__":
    main()
