"""What the system costs on top of a bare loop: images per second of the quickstart's training, ours and bare.

    python -m benchmarks.training_overhead [--pairs 5] [--steps 60]

Both train the same ResNet-20 on the same images with the same optimizer. The bare loop holds all images normalised in
memory, flips a whole batch at a time, logs nothing and writes nothing: a bound, not a system. Ours decodes, augments,
normalises, counts and records as `convatlas train` does. One process, alternating; prints the median ratio.
"""

import argparse
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from hydra.utils import instantiate
from torch.nn import functional as F

from convatlas.config.composition import compose
from convatlas.data.classification.module import ClassificationDataModule
from convatlas.record.lines import read_metrics
from pipelines.train import train

QUICKSTART = ["experiment=quickstart", "tracking=none", "trainer.max_epochs=1"]


def ours(steps: int) -> float:
    """Images per second of our training, from its own record without the first line."""
    limits = [f"trainer.limit_train_batches={steps}", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    with tempfile.TemporaryDirectory() as root:
        result = train(compose("train", [*QUICKSTART, *limits, f"run.root={root}"]))
        lines = read_metrics(Path(result["run"]) / "metrics.jsonl")
    rates: list[float] = [line["train/images_per_second"] for line in lines if "train/images_per_second" in line]
    return statistics.median(rates[1:])


def bare(steps: int) -> float:
    """Images per second of a bare loop over tensors that are ready in memory."""
    config = compose("train", QUICKSTART)
    data: ClassificationDataModule = instantiate(config.data)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in islice(data.train_dataloader(), 8)]
    net = instantiate(config.model.net).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    windows = []
    for step in range(steps):
        if step % 10 == 0:
            start = time.perf_counter()
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(net(batch.images.flip(-1)), batch.labels, label_smoothing=0.1).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 10 == 9:
            windows.append(10 * len(batch.labels) / (time.perf_counter() - start))
    return statistics.median(windows[1:])


def main() -> None:
    """Alternate the two and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    ratios = []
    for pair in range(arguments.pairs):
        first, second = ours(arguments.steps), bare(arguments.steps)
        ratios.append(first / second)
        print(f"pair {pair + 1}: ours {first:.0f}, bare {second:.0f} images/s, ratio {ratios[-1]:.3f}", flush=True)
    print(f"median ratio ours/bare: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
