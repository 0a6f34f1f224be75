"""What the tests share: one small trained run, and the command line as a subprocess."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import compose
from pipelines.train import train
from tests.fixtures import write_image_folder
from tests.gates import PATIENCE

Command = Callable[..., subprocess.CompletedProcess[str]]
SMALL = [
    "experiment=quickstart",
    "tracking=none",
    "data.global_batch_size=16",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=3",
    "trainer.log_every_n_steps=2",
]
"""Overrides that make a run of seconds."""


LONGEST = ("test_slurm.py", "test_survival.py", "test_sweep_slurm.py", "test_zoo.py", "test_online.py", "test_sweep.py")
"""Files of tests that take longest; a worker that began one of them last would keep the other waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is remembered between runs, and W&B's key, out of reach; subprocesses inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        patch.setenv("NETRC", str(tmp_path_factory.mktemp("home") / "netrc"))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of a small run that is finished; read it, do not change it."""
    root = tmp_path_factory.mktemp("trained") / "runs"
    return train(compose("train", [*SMALL, f"run.root={root}"]))


@dataclass(frozen=True)
class FolderRun:
    """A small run on a folder of generated images."""

    run: Path
    root: Path
    classes: list[str]


@pytest.fixture(scope="session")
def folder_run(tmp_path_factory: pytest.TempPathFactory) -> FolderRun:
    """A run of one epoch on generated images of three classes, 32 pixels wide."""
    directory = tmp_path_factory.mktemp("folder")
    classes = ["ant", "bee", "cat"]
    root = write_image_folder(directory / "images", classes, per_class=20, size=32)
    overrides = [
        "data=imagefolder",
        f"data.root={root}",
        "data.image_size=32",
        "data.resize=null",
        "data.global_batch_size=16",
        "augment=pad_crop_flip",
        "trainer.max_epochs=1",
        "tracking=none",
        f"run.root={directory / 'runs'}",
    ]
    result = train(compose("train", overrides))
    return FolderRun(Path(result["run"]), root, classes)


@pytest.fixture
def convatlas(tmp_path: Path) -> Command:
    """Run ``convatlas …`` in an empty directory."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "convatlas", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    return command


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
