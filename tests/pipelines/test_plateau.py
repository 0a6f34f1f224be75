"""The rate falls when the metric on val has stopped to improve, in a run that is stopped as in one that is not."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from convatlas.config.composition import compose
from convatlas.record.lines import read_metrics
from convatlas.tasks.classification.task import ClassificationTask
from pipelines.train import train

OVERRIDES = [
    "schedule=plateau",
    "schedule.patience=2",
    "schedule.max_reductions=2",
    "schedule.threshold=1.0",  # no accuracy is so much better
    "optimizer.learning_rate=0.01",
    "optimizer.reference_batch_size=null",
    "tracking=none",
    "data.global_batch_size=16",
    "trainer.max_epochs=8",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=2",
    "run.checkpoint_steps=1",
]


@pytest.mark.parametrize("stops", [(), (7, 11), (8, 12)], ids=["alone", "between epochs", "within epochs"])
def test_the_rate_falls_after_patience_at_most_so_often(
    stops: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    training_step = ClassificationTask.training_step

    def fails(self: ClassificationTask, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls in stops:
            raise RuntimeError("the power is gone")
        return training_step(self, batch)

    monkeypatch.setattr(ClassificationTask, "training_step", fails)
    for _ in stops:
        with pytest.raises(RuntimeError, match="the power is gone"):
            train(compose("train", [*OVERRIDES, f"run.root={tmp_path}"]))
    result = train(compose("train", [*OVERRIDES, f"run.root={tmp_path}"]))
    lines = read_metrics(Path(result["run"]) / "metrics.jsonl")
    rates = [line["train/learning_rate"] for line in lines if "train/learning_rate" in line]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4, 1e-4])
