"""Kill a run again and again; what comes out must be the run that was never killed.

    python -m benchmarks.kill_and_resume [--kills 20] [--seed 0]

A ResNet-20 with dropout of its input trains three epochs on the embedded images. One run is left alone; others
are ended with SIGKILL at random moments (in a step, in validation, in the midst of writing a checkpoint, between
writing and naming it, in the final test) and started again by the same command until they are finished. Their weights
must be equal bit for bit, and their records line by line but for the clock's.
"""

import argparse
import functools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from convatlas.config.composition import compose
from convatlas.data.batch import Batch
from convatlas.record.lines import read_metrics
from convatlas.report.views.reproduction import CLOCK
from convatlas.tasks.classification.task import ClassificationTask
from convatlas.training.callbacks.checkpointing import RunCheckpoints
from convatlas.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from convatlas.utils.signals import EXIT_STATUS
from pipelines.train import train

OVERRIDES = [
    "experiment=quickstart",
    "tracking=none",
    "data.global_batch_size=8",
    "trainer.max_epochs=3",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=3",
    "trainer.limit_test_batches=3",
    "trainer.log_every_n_steps=1",
    "run.checkpoint_steps=2",
]
MOMENTS: dict[str, tuple[type, str, int]] = {
    "step": (ClassificationTask, "training_step", 8),
    "validation": (ClassificationTask, "validation_step", 5),
    "writing": (AtomicCheckpointIO, "save_checkpoint", 5),
    "naming": (RunCheckpoints, "_commit", 8),
    "test": (ClassificationTask, "test_step", 3),
}
"""What is under way when the kill comes: the method, and the latest of its calls to choose from."""


def run_once(
    root: Path,
    moment: str | None = None,
    call: int = 1,
    number: int = signal.SIGKILL,
    overrides: Sequence[str] = OVERRIDES,
) -> int:
    """Run the command in a process of its own, sent a signal in the given call of a moment's method; its status."""
    arguments = [str(root), json.dumps(overrides), *([moment, str(call), str(int(number))] if moment else [])]
    command = [sys.executable, "-c", "from benchmarks.kill_and_resume import child; child()", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=environment)
    if done.returncode not in (0, -signal.SIGKILL, EXIT_STATUS):
        raise RuntimeError(done.stderr)
    return done.returncode


def child() -> None:
    """That process: trains into ``argv[1]`` with ``argv[2]``, ended in a call of a moment's method: the other three."""
    root, overrides, *kill = sys.argv[1:]
    training_step = ClassificationTask.training_step

    @functools.wraps(training_step)
    def with_dropout(self: ClassificationTask, batch: Batch) -> torch.Tensor:
        return training_step(self, batch._replace(images=F.dropout(batch.images, 0.1)))

    ClassificationTask.training_step = with_dropout  # type: ignore[method-assign]
    if kill:
        signal_in(*MOMENTS[kill[0]][:2], int(kill[1]), int(kill[2]))
    train(compose("train", [*json.loads(overrides), f"run.root={root}"]))


def signal_in(owner: type, method: str, call: int, number: int) -> None:
    """Let this process send itself a signal in the given call of a method."""
    original: Callable[..., Any] = getattr(owner, method)
    calls = 0

    @functools.wraps(original)  # Lightning looks at the signature
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            if method == "save_checkpoint":  # half of the file is there
                path = Path(args[1])
                path.with_name(f".{path.name}.tmp").write_bytes(b"PK\3\4 half a checkpoint")
            os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    setattr(owner, method, counted)


def outcome(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[dict[str, Any]]]:
    """The final and the best weights of a run, and its record without the clock's entries."""
    last, best = (read_checkpoint(run / "checkpoints" / f"{name}.ckpt")["state_dict"] for name in ("last", "best"))
    lines = [
        {name: value for name, value in line.items() if name not in CLOCK}
        for line in read_metrics(run / "metrics.jsonl")
    ]
    return last, best, lines


def only_run(root: Path) -> Path:
    """The one run under a root."""
    (run,) = root.iterdir()
    return run


def difference(run: Path, expected: Path) -> str | None:
    """What differs between two runs; None where they are equal."""
    (last, best, lines), (expected_last, expected_best, expected_lines) = outcome(run), outcome(expected)
    for name, weights, others in (("last", last, expected_last), ("best", best, expected_best)):
        unequal = [key for key in others if not torch.equal(weights[key], others[key])]
        if unequal:
            return f"{name}.ckpt: {len(unequal)} of {len(others)} tensors, such as {unequal[0]}"
    if lines != expected_lines:
        pairs = zip(lines, expected_lines, strict=False)
        first = next((pair for pair in pairs if pair[0] != pair[1]), None)
        return f"metrics.jsonl: {len(lines)} and {len(expected_lines)} lines, first difference {first}"
    return None


def main() -> None:
    """Kill, resume and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    choose = random.Random(arguments.seed)
    kills, runs = 0, 0
    with tempfile.TemporaryDirectory() as directory:
        alone = Path(directory) / "alone"
        run_once(alone)
        while kills < arguments.kills:
            runs += 1
            root = Path(directory) / f"killed{runs}"
            finished = False
            while not finished:
                moment = choose.choice(list(MOMENTS))
                call = choose.randint(1, MOMENTS[moment][2])
                again = kills < arguments.kills
                finished = run_once(root, *((moment, call) if again else ())) == 0
                if not finished:
                    kills += 1
                    print(f"run {runs}, kill {kills}: in call {call} of {moment}", flush=True)
            found = difference(only_run(root), only_run(alone))
            print(f"run {runs}: {found or 'equal to the run that was never killed'}", flush=True)
            if found:
                sys.exit(1)
    print(f"{kills} kills in {runs} runs: weights bit-identical, every step once")


if __name__ == "__main__":
    main()
