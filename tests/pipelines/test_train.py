"""Training end to end, on the embedded images."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from convatlas.config.composition import check_config, compose
from convatlas.data.batch import Batch
from convatlas.errors import DivergedError, UserError
from convatlas.record.lines import read_metrics
from convatlas.record.lock import RunLock
from convatlas.tasks.classification.task import ClassificationTask
from convatlas.training.checkpoint_io import read_checkpoint
from convatlas.training.plan import TYPES
from convatlas.utils.files import write_atomic
from pipelines.train import show, train
from tests.conftest import SMALL, read_json
from tests.fixtures import write_image_folder
from tests.gates import Gate

CONF = Path(__file__).parents[2] / "conf"


def small(root: Path, *overrides: str) -> dict[str, Any]:
    return train(compose("train", [*SMALL, f"run.root={root}", *overrides]))


def weights(result: dict[str, Any]) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(Path(result["run"]) / "checkpoints" / "last.ckpt")["state_dict"]
    return state


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_its_whole_record(trained: dict[str, Any]) -> None:
    run = Path(trained["run"])
    for name in ("config.yaml", "provenance.json", "class_list.txt", "summary.json", "evaluation/test.json"):
        assert (run / name).is_file(), name
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert trained["state"] == "finished"
    assert (trained["epochs"], trained["steps"]) == (2, 12)
    assert set(trained["test"]) == {"test/loss", "test/top1", "test/top5"}
    assert 0 <= trained["test"]["test/top1"] <= trained["test"]["test/top5"] <= 1


def test_the_record_has_the_metrics_by_step(trained: dict[str, Any]) -> None:
    lines = read_metrics(Path(trained["run"]) / "metrics.jsonl")
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == [1, 3, 5, 7, 9, 11]
    names = {name for line in lines for name in line}
    assert names >= {"train/loss", "train/learning_rate", "train/top1", "train/images_per_second", "train/data_wait"}
    assert names >= {"val/loss", "val/top1", "val/top5"}
    assert all(0 <= line["train/data_wait"] <= 1 for line in lines if "train/data_wait" in line)


def test_the_start_up_time_is_split(trained: dict[str, Any]) -> None:
    assert {"data", "model", "trainer", "first_step"} <= set(trained["startup_seconds"])


def test_checkpoints_stand_alone_and_hold_plain_containers(trained: dict[str, Any]) -> None:
    checkpoint = torch.load(Path(trained["run"]) / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["convatlas"]["config"]["model"]["name"] == "resnet20_cifar"
    assert len(checkpoint["convatlas"]["class_list"]) == 10


def test_the_evaluation_says_what_went_wrong(trained: dict[str, Any]) -> None:
    run = Path(trained["run"])
    result = read_json(run / "evaluation" / "test.json")
    confusion = torch.tensor(result["confusion_matrix"])
    assert int(confusion.sum()) == result["num_samples"] == 3 * 16
    assert float(confusion.diagonal().sum() / confusion.sum()) == pytest.approx(trained["test"]["test/top1"])
    confidences = [mistake["confidence"] for mistake in result["mistakes"]]
    assert confidences == sorted(confidences, reverse=True)
    assert all(mistake["label"] != mistake["prediction"] for mistake in result["mistakes"])
    assert all((run / "evaluation" / item["image"]).is_file() for item in result["mistakes"] + result["samples"])


def test_the_same_command_is_the_same_run(trained: dict[str, Any]) -> None:
    again = small(Path(trained["run"]).parent)
    assert again["already_finished"]
    assert again["run"] == trained["run"]
    assert again["test"] == trained["test"]


def test_a_run_that_another_process_finishes_while_this_one_waits_for_it_is_shown(
    trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / Path(trained["run"]).name
    shutil.copytree(trained["run"], run)
    finished = (run / "summary.json").read_text(encoding="utf-8")
    write_atomic(run / "summary.json", finished.replace('"finished"', '"running"'))

    class LockOfAFinishedRun(RunLock):
        def __enter__(self) -> RunLock:
            write_atomic(run / "summary.json", finished)
            return super().__enter__()

    monkeypatch.setattr("pipelines.train.RunLock", LockOfAFinishedRun)
    again = small(tmp_path)
    assert (again["already_finished"], again["test"]) == (True, trained["test"])
    assert (run / "summary.json").read_text(encoding="utf-8") == finished
    assert (run / "metrics.jsonl").read_bytes() == (Path(trained["run"]) / "metrics.jsonl").read_bytes()


def test_fresh_gives_the_same_result_beside_it_for_any_number_of_threads(
    trained: dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / Path(trained["run"]).name
    shutil.copytree(trained["run"], run)
    again = small(tmp_path, "run.fresh=true", "data.threads=5")
    assert again["run"] == f"{run}-a2"
    assert same(weights(again), weights(trained))
    assert again["test"] == trained["test"]


def test_another_seed_is_another_result(trained: dict[str, Any], tmp_path: Path) -> None:
    assert not same(weights(small(tmp_path, "seed=1")), weights(trained))


def test_a_killed_run_goes_on_and_ends_bit_identical(trained: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "killed"
    command = [sys.executable, "-m", "convatlas", "train", *SMALL, f"run.root={root}"]
    run = root / Path(trained["run"]).name
    with Gate(tmp_path / "gate", step=9) as gate:  # in the second epoch
        process = subprocess.Popen(command, env=gate.environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        gate.wait()
        process.kill()
        process.wait()
    assert read_json(run / "summary.json")["state"] == "running"

    resumed = small(root)
    assert resumed["run"] == str(run)
    assert same(weights(resumed), weights(trained))
    steps = [line["step"] for line in read_metrics(run / "metrics.jsonl") if "train/loss" in line]
    assert steps == [1, 3, 5, 7, 9, 11], "every step once"


def test_divergence_ends_the_run_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train/loss is .* lower optimizer\.learning_rate"):
        small(tmp_path, "optimizer.learning_rate=1e30")
    (run,) = tmp_path.iterdir()
    summary = read_json(run / "summary.json")
    assert summary["state"] == "failed"
    assert "train/loss" in summary["reason"]


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("quickstart*.yaml")))
def test_every_quickstart_runs_two_steps(experiment: str, tmp_path: Path) -> None:
    result = train(compose("train", [f"experiment={experiment}", "debug=fast", f"run.root={tmp_path}"]))
    assert result["steps"] == 2


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "exponential"])
def test_optimizers_and_schedules_train(optimizer: str, schedule: str, tmp_path: Path) -> None:
    overrides = [f"optimizer={optimizer}", f"schedule={schedule}", "debug=fast", f"run.root={tmp_path}"]
    assert train(compose("train", overrides))["steps"] == 2


def test_half_precision_is_of_the_computation_alone_and_training_images_may_be_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    training_step = ClassificationTask.training_step

    def looks(self: ClassificationTask, batch: Batch) -> torch.Tensor:
        seen.append((batch.images.shape[-1], self.net(batch.images).dtype))
        return training_step(self, batch)

    monkeypatch.setattr(ClassificationTask, "training_step", looks)
    result = small(tmp_path, "trainer.precision=bf16-mixed", "augment.image_size=24", "trainer.max_epochs=1")
    assert set(seen) == {(24, torch.bfloat16)}
    assert {value.dtype for value in weights(result).values()} == {torch.float32, torch.int64}
    checkpoint = read_checkpoint(Path(result["run"]) / "checkpoints" / "last.ckpt")
    momenta = [state["momentum_buffer"] for state in checkpoint["optimizer_states"][0]["state"].values()]
    assert {momentum.dtype for momentum in momenta} == {torch.float32}
    assert checkpoint["convatlas"]["config"]["data"]["image_size"] == 32, "what an evaluation shows"


@pytest.mark.parametrize(
    "model", ["alexnet", "vgg11", "googlenet", "googlenet_torchvision", "resnet18", "plain20_cifar", "vgg16_bn"]
)
def test_every_family_trains_on_the_embedded_images(model: str, tmp_path: Path) -> None:
    overrides = ["experiment=quickstart", f"model={model}", "debug=fast", f"run.root={tmp_path}"]
    overrides += ["data.global_batch_size=8", "trainer.limit_test_batches=1"]
    result = train(compose("train", overrides))
    assert torch.isfinite(torch.tensor(result["test"]["test/loss"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.limit_val_batches=0"], "no epoch would be validated"),
        (["trainer.check_val_every_n_epoch=5"], "no epoch would be validated"),
        (["run.fresh=true", "trainer.devices=2"], "2 ranks cannot agree"),
        (["trainer.accumulate_grad_batches=3"], "data.global_batch_size=16: expected a multiple of 3"),
        (["trainer.accelerator=gpu"], "trainer: "),
        (["optimizer.algorithm.momentum=-1"], "optimizer: Invalid momentum"),
    ],
)
def test_what_cannot_be_trained_is_named(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        small(tmp_path, *overrides)
    assert message in str(caught.value)
    states = [read_json(path)["state"] for path in tmp_path.glob("*/summary.json")]
    assert states in ([], ["failed"])


@pytest.mark.parametrize(
    "override",
    [
        "seed=-1",
        "ema.decay=1.0",
        "ema.every_n_steps=0",
        "model.loss=hinge",
        "data.split=val",
        "trainer.max_epochs=0",
        "trainer.log_every_n_steps=0",
        "trainer.devices=-1",
    ],
)
def test_values_out_of_range_are_named(override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0].replace(".", r"\.")):
        check_config(compose("train", [override]), TYPES)


def test_divergence_in_a_short_epoch_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="training diverged"):
        small(tmp_path, "optimizer.learning_rate=1e30", "trainer.log_every_n_steps=100")
    (summary,) = tmp_path.glob("*/summary.json")
    assert read_json(summary)["reason"].startswith("DivergedError: train/loss is nan at step")


def test_skipped_images_are_listed_and_counted_in_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_image_folder(tmp_path / "images", ["a", "b"], per_class=20, size=32)
    for path in ("train/a/003.jpg", "train/b/007.jpg", "val/a/001.jpg"):
        (root / path).write_bytes(b"")
    overrides = [
        *("data=imagefolder", f"data.root={root}", "data.image_size=32", "data.resize=null", "augment=pad_crop_flip"),
        *("data.global_batch_size=12", "trainer.max_epochs=1", "tracking=none", f"run.root={tmp_path / 'runs'}"),
    ]
    with pytest.raises(UserError, match=r"an empty file"):
        train(compose("train", overrides))
    result = train(compose("train", [*overrides, "data.on_error=skip"]))
    listed = (Path(result["run"]) / "skipped_images.txt").read_text(encoding="utf-8").splitlines()
    assert result["skipped_images"] == len(listed)
    assert f"{root}/val/a/001.jpg: an empty file; expected an image" in listed
    assert read_json(Path(result["run"]) / "evaluation" / "test.json")["num_samples"] == 39
    show(result)
    assert f"skipped  {len(listed)} images, listed in" in capsys.readouterr().out
