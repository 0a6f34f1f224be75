from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import compose
from convatlas.errors import UserError
from pipelines.check import check
from pipelines.runs import runs
from pipelines.train import train
from tests.conftest import SMALL
from tests.fixtures import write_image_folder


def test_check_reads_one_batch_and_writes_nothing(tmp_path: Path) -> None:
    found = check(compose("check", ["experiment=quickstart", f"run.root={tmp_path / 'runs'}"]))
    assert found["batch"].startswith("(64, 1, 32, 32) forward and backward, loss ")
    assert found["class_list"].startswith("10 classes, hash ")
    assert found["data"] == "4,500 train, 500 val, 1,000 test"
    assert found["run"].endswith("(new)")
    assert list(tmp_path.iterdir()) == []


def test_check_trains_a_step_on_the_part_of_a_batch_that_a_device_gets(tmp_path: Path) -> None:
    overrides = ["experiment=quickstart", f"run.root={tmp_path}", "trainer.accelerator=cpu"]
    found = check(compose("check", [*overrides, "trainer.accumulate_grad_batches=4"]))
    assert found["batch"].startswith("(16, 1, 32, 32) forward and backward, loss ")
    assert found["memory"].endswith(" MiB at most in this process")
    with pytest.raises(UserError, match="largest_batch=true: expected a GPU"):
        check(compose("check", [*overrides, "largest_batch=true"]))


def test_files_that_are_no_images_are_counted_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_image_folder(tmp_path / "images", ["a", "b"], per_class=4, size=32)
    (root / "train" / "a" / "000.jpg").rename(root / "train" / "a" / "000.jfif")
    for name in ("train/a/.ipynb_checkpoints/x.jpg", "train/b/1.heic", "train/b/2.HEIC", "val/a/list"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    overrides = ["data=imagefolder", f"data.root={root}", "model=resnet20_cifar", "data.image_size=32", "augment=none"]
    overrides += ["data.resize=null", "data.global_batch_size=2", "data.val_fraction=0.3", "tracking=none"]
    overrides += [f"run.root={tmp_path / 'runs'}"]
    found = check(compose("check", overrides))
    assert found["data"] == "6 train, 2 val, 8 test"
    assert found["files"] == "3 files passed over: 2 .heic, 1 without suffix"
    train(compose("train", [*overrides, "trainer.max_epochs=1", "trainer.limit_train_batches=2"]))
    assert capsys.readouterr().out.count("files     3 files passed over: 2 .heic, 1 without suffix\n") == 1


def test_check_knows_the_run_that_train_made(trained: dict[str, Any]) -> None:
    found = check(compose("check", [*SMALL, f"run.root={Path(trained['run']).parent}"]))
    assert found["run"] == f"{trained['run']} (finished)"


def test_check_measures_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1024})())
    with pytest.raises(UserError, match=r"run\.root=.*0 MiB free"):
        check(compose("check", [f"run.root={tmp_path}"]))


def test_runs_lists_the_state_and_the_best_metric(trained: dict[str, Any]) -> None:
    listed = runs(compose("runs", [f"root={Path(trained['run']).parent}"]))["runs"]
    (summary,) = [summary for summary in listed if summary["run"] == trained["run"]]
    assert summary["state"] == "finished"
    assert summary["best"]["metric"] == "val/top1"


def test_runs_names_a_missing_root() -> None:
    with pytest.raises(UserError, match="root=/nowhere"):
        runs(compose("runs", ["root=/nowhere"]))
