"""The average of the weights: what it is, that it is what is evaluated, and that a run with it goes on exactly."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.kill_and_resume import difference
from convatlas.config.composition import compose
from convatlas.tasks.classification.task import ClassificationTask
from convatlas.training.callbacks.ema import EMA
from convatlas.training.checkpoint_io import read_checkpoint
from convatlas.training.restore import restored_config
from pipelines.evaluate import evaluate
from pipelines.train import train
from tests.conftest import SMALL

AVERAGED = [*SMALL, "ema.decay=0.8", "ema.every_n_steps=2", "run.checkpoint_steps=4"]


class Regression(pl.LightningModule):
    """Keeps what its weights and statistics were after each step, and in validation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        self.before_steps: list[dict[str, Tensor]] = []
        self.after_steps: list[dict[str, Tensor]] = []
        self.in_validation: dict[str, Tensor] = {}

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items() if value.is_floating_point()}

    def training_step(self, batch: list[Tensor]) -> Tensor:
        self.before_steps.append(self.state())
        return self.net(batch[0]).square().sum()  # type: ignore[no-any-return]

    def on_train_batch_end(self, *args: Any) -> None:
        self.after_steps.append(self.state())

    def validation_step(self, batch: list[Tensor]) -> None:
        self.in_validation = self.state()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("every_n_steps", [1, 2])
def test_validation_sees_the_average_and_training_goes_on_without_it(every_n_steps: int, tmp_path: Path) -> None:
    module = Regression()
    data = DataLoader(TensorDataset(torch.randn(10, 3)), batch_size=2)
    pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_epochs=2,
        callbacks=[EMA(0.75, every_n_steps)],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, data, data)
    first, *others = module.after_steps[::every_n_steps]
    for name, average in first.items():
        for state in others:
            average = 0.75 * average + 0.25 * state[name]
        torch.testing.assert_close(module.in_validation[name], average)
    assert all(torch.equal(module.before_steps[5][name], module.after_steps[4][name]) for name in first)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(compose("train", [*AVERAGED, f"run.root={tmp_path_factory.mktemp('averaged')}"]))


def test_the_best_checkpoint_is_the_average_that_was_validated(averaged: dict[str, Any], tmp_path: Path) -> None:
    overrides = [f"run={averaged['run']}", "data.split=val", "trainer.limit_test_batches=2", f"output={tmp_path}"]
    found = evaluate(restored_config("evaluate", overrides))
    assert found["metrics"]["val/top1"] == averaged["best"]["value"]
    best = read_checkpoint(Path(averaged["run"]) / "checkpoints" / "best.ckpt")
    weight = "net.layer1.0.conv1.weight"
    assert not torch.equal(best["state_dict"][weight], best["current_model_state"][weight])


def test_a_checkpoint_with_an_average_names_the_weights_in_use_and_lets_them_be_chosen(
    averaged: dict[str, Any], tmp_path: Path
) -> None:
    last = Path(averaged["run"]) / "checkpoints" / "last.ckpt"
    few = ["data.split=val", "trainer.limit_test_batches=2", f"output={tmp_path}"]

    def evaluated(*overrides: str) -> dict[str, Any]:
        return evaluate(restored_config("evaluate", [*overrides, *few]))

    restored = evaluated(f"checkpoint={last}")
    assert (
        restored["weights"]
        == "the average that ema kept; the trained ones are in the checkpoint as current_model_state"
    )
    start = [override for override in AVERAGED if override.startswith("data.")]
    average = evaluated(f"model.weights={last}", *start)
    trained = evaluated(f"model.weights={last}", "model.weights_entry=current_model_state", *start)
    assert average["metrics"] == restored["metrics"] != trained["metrics"]
    assert average["weights"].startswith(f"{last} (state_dict, an average): ")
    assert average["weights"].endswith("; also in the file, for weights_entry: current_model_state")
    assert trained["weights"].startswith(f"{last} (current_model_state): ")


def test_a_run_resumed_within_an_epoch_ends_bit_identical(
    averaged: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    training_step = ClassificationTask.training_step

    def fails_once(self: ClassificationTask, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise RuntimeError("the power is gone")
        return training_step(self, batch)

    monkeypatch.setattr(ClassificationTask, "training_step", fails_once)
    command = [*AVERAGED, f"run.root={tmp_path}"]
    with pytest.raises(RuntimeError, match="the power is gone"):
        train(compose("train", command))
    result = train(compose("train", command))
    assert calls == 16, "the last checkpoint was that of step 8"
    assert difference(Path(result["run"]), Path(averaged["run"])) is None
    assert result["test"] == averaged["test"]
