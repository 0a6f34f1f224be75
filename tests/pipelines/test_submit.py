"""What `convatlas submit` does without SLURM; tests/test_slurm.py has the rest."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from convatlas.config.composition import check_config
from convatlas.config.composition import compose as compose_config
from convatlas.config.composition import compose_around_train as compose
from convatlas.errors import UserError
from pipelines.jobs import jobs
from pipelines.submit import submit
from tests.conftest import SMALL


def dry(*overrides: str) -> dict[str, Any]:
    return submit(compose("submit", [*SMALL, "cluster=cpu", "dry_run=true", *overrides]))


def test_a_dry_run_shows_the_job_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    result = dry("resources=two_cpu_nodes", f"run.root={root}", "seed=3")
    words = shlex.split(result["command"])
    assert {"--nodes=2", "--ntasks-per-node=2", "seed=3", "trainer.devices=2", "trainer.num_nodes=2"} <= set(words)
    assert result["ranks"] == "2 × 2"
    assert [run["state"] for run in result["runs"]] == ["to be submitted"]
    assert Path(result["runs"][0]["run"]).name.endswith("-s3")
    assert not root.exists()


def test_a_finished_run_is_not_submitted_and_a_fresh_attempt_is_numbered(trained: dict[str, Any]) -> None:
    root = Path(trained["run"]).parent
    result = dry("resources=one_cpu", f"run.root={root}")
    assert result["runs"] == [{"run": trained["run"], "state": "finished already", "job": None}]
    result = dry("resources=one_cpu", f"run.root={root}", "run.fresh=true")
    assert result["runs"][0]["run"] == trained["run"] + "-a2"
    assert shlex.split(result["command"])[-2:] == ["run.attempt=2", "run.fresh=false"]


def test_a_file_of_runs_is_an_array_of_those_that_are_open(trained: dict[str, Any], tmp_path: Path) -> None:
    lines = tmp_path / "seeds.txt"
    lines.write_text("seed=0\nseed=1\nseed=2\n", encoding="utf-8")
    result = dry("resources=one_cpu", f"run.root={Path(trained['run']).parent}", f"runs={lines}")
    assert [run["state"] for run in result["runs"]] == ["finished already", "to be submitted", "to be submitted"]
    assert "--array=2,3" in shlex.split(result["command"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=2"], "trainer.devices: leave it out; resources="),
        (["trainer.max_epochs=ten"], "trainer.max_epochs=ten: expected"),
        (["resources=two_cpu_nodes", "data.global_batch_size=6"], "data.global_batch_size=6"),
        (["resources.nodes=0"], "resources.nodes=0"),
        (["data=imagefolder", "data.root=nowhere"], "data.root=nowhere"),
        (["runs=nowhere.txt"], "runs=nowhere.txt: no such file"),
    ],
)
def test_a_mistake_is_told_before_the_job_is_queued(overrides: list[str], message: str) -> None:
    config = compose("submit", [*SMALL, "cluster=cpu", "resources=one_cpu", "dry_run=true", *overrides])
    with pytest.raises((UserError, InstantiationException), match=message):
        check_and_submit(config)


def check_and_submit(config: DictConfig) -> None:
    check_config(config, {})
    submit(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=0\n\nseed=1\n", "line 2 is empty"),
        ("it's=1\n", "No closing quotation"),
        ("", "line 1 is empty"),
        ("seed=1\nseed=1\n", "the same run"),
    ],
)
def test_a_file_of_runs_is_checked(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "runs.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        dry("resources=one_cpu", f"runs={tmp_path / 'runs.txt'}")


def test_jobs_asks_for_the_folder_of_the_runs() -> None:
    with pytest.raises(UserError, match="root=nowhere: no such directory"):
        jobs(compose_config("jobs", ["root=nowhere"]))
