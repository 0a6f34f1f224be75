"""What W&B costs training, with servers that answer, answer after half a minute, or not at all.

    python -m benchmarks.tracking_overhead [--rounds 3] [--steps 200]

Each round trains the quickstart's ResNet-20 for some steps without tracking and with ``tracking=wandb`` in front of
each server, in alternation, every run a process of its own. Printed for each, the medians over the rounds: seconds
between the first and the last line of the record (training, without start and end), beside the run without tracking of
the same round; and what the whole command took longer than that run.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from convatlas.record.lines import read_metrics
from tests.wandb_server import KEY, WandbServer

CASES = ("none", "answers", "after 30 s", "never", "down")


@contextlib.contextmanager
def server(case: str) -> Iterator[str]:
    """The address of a server that behaves as the case says."""
    if case == "never":  # connections are taken, and nothing is said
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
        return
    with WandbServer() as running:
        running.delay = 30.0 if case == "after 30 s" else 0.0
        yield "http://127.0.0.1:9" if case == "down" else running.url


def train(case: str, steps: int) -> tuple[float, float]:
    """Seconds of training, and of the whole command."""
    with server(case) as url, tempfile.TemporaryDirectory() as root:
        overrides = [
            "experiment=quickstart",
            f"tracking={'none' if case == 'none' else 'wandb'}",
            "trainer.max_epochs=1",
            f"trainer.limit_train_batches={steps}",
            "trainer.limit_val_batches=2",
            "trainer.limit_test_batches=2",
            "data.global_batch_size=16",
            f"run.root={root}",
        ]
        environment = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}
        started = time.perf_counter()
        command = [sys.executable, "-m", "convatlas", "train", *overrides]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        seconds = time.perf_counter() - started
        (metrics,) = Path(root).glob("*/metrics.jsonl")
        lines = [line for line in read_metrics(metrics) if "train/loss" in line]
    return lines[-1]["time"] - lines[0]["time"], seconds


def main() -> None:
    """Alternate the cases and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        rounds.append({case: train(case, arguments.steps) for case in CASES})
        shown = "  ".join(f"{case}: {train_s:.1f} s of {all_s:.1f} s" for case, (train_s, all_s) in rounds[-1].items())
        print(f"round {number + 1}: {shown}", flush=True)
    for case in CASES[1:]:
        ratio = statistics.median(found[case][0] / found["none"][0] for found in rounds)
        longer = statistics.median(found[case][1] - found["none"][1] for found in rounds)
        print(f"server {case}: training {100 * (ratio - 1):+.1f} %, the whole command {longer:+.1f} s")


if __name__ == "__main__":
    main()
