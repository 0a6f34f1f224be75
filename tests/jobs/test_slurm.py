import os
from pathlib import Path

import pytest

from convatlas.errors import UserError
from convatlas.jobs.slurm import Cluster, Resources, is_queued, job_states, sbatch_command, submit

GPUS = Resources(nodes=2, gpus_per_node=4, tasks_per_node=4, cpus_per_task=8, memory="64G", time="12:00:00")


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that comes first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_one_description_gives_the_flags_and_the_trainer() -> None:
    cluster = Cluster(sbatch={"partition": "a100", "account": None, "exclusive": True, "nice": 0}, signal_seconds=300)
    command = sbatch_command(cluster, GPUS, Path("train.sbatch"), ["seed=1"], job_name="x")
    assert command == [
        *("sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=4", "--cpus-per-task=8", "--gpus-per-node=4"),
        *(
            "--mem=64G",
            "--time=12:00:00",
            "--signal=USR1@300",
            "--export=ALL",
            "--job-name=x",
            "--partition=a100",
            "--exclusive",
            "--nice=0",
        ),
        *("train.sbatch", "seed=1"),
    ]
    assert GPUS.trainer == {"accelerator": "gpu", "devices": 4, "num_nodes": 2}


def test_a_cpu_job_asks_for_no_gpus() -> None:
    resources = Resources(1, 0, 2, 4, None, "1:00")
    command = sbatch_command(Cluster(sbatch={}), resources, Path("train.sbatch"), [])
    assert not any("gpus" in word or "mem" in word for word in command)
    assert resources.trainer["accelerator"] == "cpu"


def test_a_gpu_without_a_rank_is_refused() -> None:
    with pytest.raises(UserError, match=r"resources.tasks_per_node=2: expected resources.gpus_per_node=4"):
        Resources(1, 4, 2, 8, None, "1:00")


def test_a_refusal_of_sbatch_is_reported_with_its_reason(programs: Path) -> None:
    program(programs, "sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")
    with pytest.raises(UserError, match="invalid partition specified: x"):
        submit(["sbatch", "--partition=x", "train.sbatch"], {})


def test_a_job_number_comes_without_the_cluster(programs: Path) -> None:
    program(programs, "sbatch", 'echo "12;big $MARK"')
    assert submit(["sbatch", "train.sbatch"], {"MARK": "1"}) == "12"


def test_without_slurm_the_error_names_a_login_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="sbatch is not on PATH"):
        submit(["sbatch", "train.sbatch"], {})


@pytest.mark.parametrize("accounting", [True, False])
def test_job_states_come_from_squeue_and_then_from_sacct(programs: Path, accounting: bool) -> None:
    program(programs, "squeue", "echo '7|RUNNING|None'; echo '8_2|PENDING|Resources'; echo '99|RUNNING|None'")
    program(programs, "sacct", "echo '5|CANCELLED by 0'" if accounting else "exit 1")
    states = job_states(["5", "7", "8_2"])
    assert states == {"7": "RUNNING", "8_2": "PENDING (Resources)"} | ({"5": "CANCELLED"} if accounting else {})
    assert [is_queued(states.get(job)) for job in ("5", "7", "8_2")] == [False, True, True]


def test_a_single_job_that_squeue_has_forgotten_is_not_an_error(programs: Path) -> None:
    program(programs, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    program(programs, "sacct", "exit 1")
    assert job_states(["5"]) == {}
