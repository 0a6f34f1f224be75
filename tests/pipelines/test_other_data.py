"""The same command on other data is another run, though every file has its old name."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import compose
from pipelines.check import check
from pipelines.train import train
from tests.conftest import read_json
from tests.data.test_data_identity import mask_folder, rewrite_mask


def overrides(data: Path, runs: Path) -> list[str]:
    return [
        "data=mask_folders",
        f"data.root={data}",
        "model=unet_same",
        "model.net.width=4",
        "model.net.levels=3",
        "data.image_size=32",
        "data.global_batch_size=2",
        "data.val_fraction=0.25",
        "augment=masks_crop_flip",
        "trainer.max_epochs=1",
        "trainer.log_every_n_steps=1",
        "tracking=none",
        f"run.root={runs}",
    ]


def trained(data: Path, runs: Path) -> dict[str, Any]:
    return train(compose("train", overrides(data, runs)))


def test_other_masks_under_the_same_names_are_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, data = tmp_path / "runs", mask_folder(tmp_path / "data")
    first = trained(data, runs)
    copy = shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    again = trained(copy, runs)
    assert (again["already_finished"], again["run"]) == (True, first["run"])
    assert "its data are not those" not in capsys.readouterr().err

    rewrite_mask(copy / "masks" / "train" / "town" / "2012_000001.png")
    damaged = runs / "unet_same-mask_folders-00000000-s0"  # it cannot be compared, and hides no other run
    shutil.copytree(first["run"], damaged, ignore=shutil.ignore_patterns("checkpoints"))
    (damaged / "provenance.json").write_bytes(b"\0")
    note = f"its data are not those of {first['run']} (train masks differ)"
    assert check(compose("check", overrides(copy, runs)))["run"].endswith(f"(new); {note}")
    other = trained(copy, runs)
    assert f"convatlas: warning: this is a new run: {note}\n" in capsys.readouterr().err
    assert not other["already_finished"]
    assert other["run"] != first["run"]
    before, after = (read_json(Path(run["run"]) / "provenance.json") for run in (first, other))
    assert before["data_fingerprint"] != after["data_fingerprint"]
    digests = before["data_digests"], after["data_digests"]
    assert {part for part in digests[0] | digests[1] if digests[0].get(part) != digests[1].get(part)} == {"train/masks"}

    rewrite_mask(data / "masks" / "val" / "town" / "2012_000005.png")  # repaired in place
    repaired = trained(data, runs)
    assert not repaired["already_finished"]
    assert len({run["run"] for run in (first, other, repaired)}) == 3
