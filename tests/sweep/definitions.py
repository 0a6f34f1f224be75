"""Sweeps for tests, whose trials need no training."""

from pathlib import Path
from typing import Any

from convatlas.sweep.definition import MAX_RETRIES, NUM_TRIALS, Sweep, open_sweep, write_sweep

RATE = {"_target_": "convatlas.sweep.space.Float", "key": "rate", "low": 0.001, "high": 1.0, "log": True}
KIND = {"_target_": "convatlas.sweep.space.Choice", "key": "kind", "values": ["a", "b", None]}
STEPS = {"_target_": "convatlas.sweep.space.Int", "key": "steps", "low": 1, "high": 3, "when": {"kind": ["a", "b"]}}
RANDOM = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}


def make_sweep(directory: Path, num_trials: int, url: str | None = None, **changed: Any) -> Sweep:
    """A sweep of some trials with a rate, a kind, and steps that not every kind has."""
    settings: dict[str, Any] = {
        "space": {"rate": RATE, "kind": KIND, "steps": STEPS},
        "sampler": RANDOM,
        "pruner": {"_target_": "optuna.pruners.NopPruner"},
        "objective": [{"metric": "val/top1", "mode": "max"}],
        "train": ["model=any"],
    }
    write_sweep(directory, settings | changed, url)
    sweep = open_sweep(directory)
    sweep.study.set_user_attr(NUM_TRIALS, num_trials)
    sweep.study.set_user_attr(MAX_RETRIES, 2)
    return sweep
