"""Where a run is mirrored to, as it starts."""

from pathlib import Path

import pytest

from convatlas.config.composition import compose
from convatlas.errors import UserError
from convatlas.tracking.mirrors import WandbMirror, description, tensorboard_mirror
from convatlas.tracking.wandb.process import make_job
from pipelines.train import train
from tests.conftest import SMALL

SECONDS = {"answer_seconds": 1.0, "finish_seconds": 1.0}


def test_without_a_key_the_run_is_offline_and_the_line_says_how_to_change_that(tmp_path: Path) -> None:
    mirror = WandbMirror(directory=str(tmp_path), settings={})
    assert description(mirror) == (
        "wandb offline: no API key for https://api.wandb.ai, set WANDB_API_KEY or run `wandb login`; "
        "`convatlas sync` publishes the run"
    )
    mirror.close()
    assert list(tmp_path.iterdir()) == []


def test_wandbs_own_variable_for_offline_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    mirror = WandbMirror(directory=str(tmp_path), settings={})
    assert description(mirror) == "wandb offline; `convatlas sync` publishes the run"


@pytest.mark.parametrize("name", ["net-data-0a1b-s3", "net-data-0a1b-s3-a2"])
def test_runs_that_differ_in_the_seed_are_one_group(name: str) -> None:
    options = {"project": "p", "entity": None, "group": None, "job_type": "train", "tags": None, "notes": None}
    job = make_job(f"runs/{name}", {}, options | {"checkpoints": "none"}, live=False, **SECONDS)
    assert (job.run_id, job.group, job.tags) == (name, "net-data-0a1b", [])


def test_tensorboards_files_hold_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    result = train(compose("train", [*SMALL, "tracking=tensorboard", f"run.root={tmp_path}"]))
    files = list((Path(result["run"]) / "tensorboard").glob("events.out.tfevents.*"))
    assert sum(b"val/top1" in file.read_bytes() for file in files) == 1


def test_tensorboard_without_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorboard", "tensorboardX"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard._{module.upper()}_AVAILABLE", False)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        tensorboard_mirror(directory=str(tmp_path), settings={})
