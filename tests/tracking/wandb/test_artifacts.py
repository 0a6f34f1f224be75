"""A published checkpoint is evaluated and asked for predictions by its name in W&B."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from convatlas.errors import UserError
from convatlas.tracking.wandb.artifacts import fetch_checkpoint
from convatlas.training.restore import restored_config
from pipelines.evaluate import evaluate
from tests.conftest import Command
from tests.tracking.conftest import summary, synced
from tests.wandb_server import ENTITY, WandbServer


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_checkpoint_is_evaluated_by_its_name(
    offline_run: Path, server: WandbServer, cache: Path, tmp_path: Path
) -> None:
    synced(offline_run)
    overrides = [
        f"checkpoint=wandb:{ENTITY}/convatlas/{offline_run.name}:best",
        "trainer.limit_test_batches=3",
        f"output={tmp_path / 'evaluation'}",
    ]
    result = evaluate(restored_config("evaluate", overrides))
    assert result["metrics"] == pytest.approx(summary(offline_run)["test"])
    assert server.operations.count("GET artifacts") == 1  # fetched once


def test_predict_takes_it_too(offline_run: Path, server: WandbServer, cache: Path, convatlas: Command) -> None:
    synced(offline_run)
    name = f"wandb:{ENTITY}/convatlas/{offline_run.name}:last"
    done = convatlas("predict", f"checkpoint={name}", f"images={offline_run / 'evaluation' / 'test'}", "format=json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def test_a_checkpoint_that_is_not_there_is_named(server: WandbServer, cache: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint=wandb:lab/convatlas/nothing:best: cannot be fetched, expected"):
        fetch_checkpoint("wandb:lab/convatlas/nothing:best")


def test_a_name_without_an_artifact_is_named(server: WandbServer, cache: Path) -> None:
    with pytest.raises(UserError, match="expected wandb:entity/project/name:alias"):
        fetch_checkpoint("wandb:a/b/c/d/e")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"best.ckpt": "file:///etc/passwd"}, "the artifact refers to file:///etc/passwd, expected the file itself"),
        ({"../best.ckpt": None}, r"the artifact has \.\./best\.ckpt, expected the file in no folder"),
        ({"best.ckpt": None, "last.ckpt": None}, "2 checkpoints in that artifact, expected one"),
        ({"notes.txt": None}, "0 checkpoints in that artifact, expected one"),
    ],
)
def test_an_artifact_brings_one_file_and_no_reference(
    files: dict[str, str | None], message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {path: SimpleNamespace(path=path, ref=ref) for path, ref in files.items()}
    artifact = SimpleNamespace(manifest=SimpleNamespace(entries=entries))
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(artifact=lambda name, type: artifact))
    with pytest.raises(UserError, match=rf"^checkpoint=wandb:lab/convatlas/run:best: {message}"):
        fetch_checkpoint("wandb:lab/convatlas/run:best")
    assert not cache.exists()
