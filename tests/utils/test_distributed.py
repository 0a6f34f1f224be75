import re

import pytest

from convatlas.errors import UserError
from convatlas.utils.distributed import (
    FAMILIES,
    Ranks,
    by_srun,
    by_torchrun,
    is_rank_zero,
    num_nodes,
    ranks,
    ranks_per_node,
)

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_ID": "7"}
MEETING = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
PMI = {"PMI_RANK": "0", "PMI_SIZE": "6"}
LEFT_OVER = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    families = [name for names in FAMILIES for name in names]
    for name in [*families, *TORCHRUN, *SRUN, *BATCH_SCRIPT, *MEETING, "PMIX_RANK", "SLURM_LOCALID", "SLURM_PTY_PORT"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "nodes", "per_node", "zero"),
    [
        ({}, 1, 1, True),
        (TORCHRUN, 2, 4, False),
        (SRUN, 3, 2, True),
        (SRUN | TORCHRUN, 2, 4, False),  # torchrun within a job step
        (BATCH_SCRIPT, 1, 1, True),  # one process in a batch script, whatever the job could start
        (LEFT_OVER, 1, 1, True),
        (LEFT_OVER | SRUN, 3, 2, True),
        ({"WORLD_SIZE": "1"}, 1, 1, True),
        ({"WORLD_SIZE": "4"} | SRUN, 3, 2, True),  # srun says which rank this is
        (PMI | SRUN, 3, 2, True),  # srun --mpi=pmi2
        ({"PMIX_RANK": "0"} | SRUN, 3, 2, True),  # srun --mpi=pmix
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"}, 1, 1, True),
        (OPEN_MPI | MEETING | SRUN, 2, 4, False),  # mpirun within a job step
    ],
)
def test_ranks_are_read_from_the_variables_of_launchers(
    environment: dict[str, str], nodes: int, per_node: int, zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (num_nodes(), ranks_per_node(), is_rank_zero()) == (nodes, per_node, zero)
    assert by_torchrun() == ("TORCHELASTIC_RUN_ID" in environment)
    assert by_srun() == ((nodes, per_node) == (3, 2))


@pytest.mark.parametrize("terminal", [True, False])
def test_a_command_in_a_shell_of_srun_is_one_process(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SRUN | {"SLURM_PTY_PORT": "1234"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.isatty", lambda file: terminal)
    assert ranks().size == (1 if terminal else 6)  # else another srun has started it from there


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RANK": "1", "WORLD_SIZE": "3"}, Ranks(1, 3, 0, 1)),  # Kubeflow: a process in each pod
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, Ranks(1, 2, 1, 2)),
        ({"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2"}, Ranks(6, 8, 2, 4)),
        ({"RANK": "6", "WORLD_SIZE": "8", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "8"}, Ranks(6, 8, 2, 8)),
        (OPEN_MPI, Ranks(5, 8, 1, 4)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}, Ranks(1, 2, 1, 2)),
        ({"WORLD_SIZE": "1"} | OPEN_MPI, Ranks(5, 8, 1, 4)),
    ],
)
def test_complete_variables_of_any_launcher_are_used(
    environment: dict[str, str], expected: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (environment | MEETING).items():
        monkeypatch.setenv(name, value)
    assert ranks() == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4: RANK and MASTER_ADDR and MASTER_PORT are missing"),
        (
            {"WORLD_SIZE": "4"} | MEETING,
            "WORLD_SIZE=4: RANK is missing; give each process RANK, WORLD_SIZE, MASTER_ADDR",
        ),
        ({"RANK": "2"}, "RANK=2: WORLD_SIZE and"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1: RANK and WORLD_SIZE and"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK=1 WORLD_SIZE=2: MASTER_ADDR and MASTER_PORT are missing"),
        ({"RANK": "2", "WORLD_SIZE": "2"} | MEETING, "RANK=2 WORLD_SIZE=2: RANK must be below WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK=1 WORLD_SIZE=1: RANK must be below WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "2"} | MEETING, "LOCAL_RANK must be below WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "0"} | MEETING, "RANK must be below WORLD_SIZE"),
        ({"RANK": "one", "WORLD_SIZE": "2"} | MEETING, "RANK=one: expected a number"),
        ({"RANK": "-1", "WORLD_SIZE": "2"} | MEETING, "RANK=-1: expected a number"),
        ({"RANK": "0", "WORLD_SIZE": "2"} | MEETING | {"MASTER_PORT": "http"}, "MASTER_PORT=http: expected a number"),
        ({"RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "2"} | MEETING, "as many processes on each machine"),
        (OPEN_MPI, "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 .*: MASTER_ADDR and MASTER_PORT are missing"),
        (PMI, "PMI_RANK=0 PMI_SIZE=6: MASTER_ADDR and MASTER_PORT are missing"),
        ({"PMIX_RANK": "0"}, "PMIX_RANK=0: it does not say how many there are"),
        ({"RANK": "1", "WORLD_SIZE": "2"} | SRUN, "RANK=1 WORLD_SIZE=2: MASTER_ADDR"),  # several in one task of a step
    ],
)
def test_variables_that_do_not_fit_are_refused_by_name(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        ranks()
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_nodes_with_unequal_numbers_of_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SRUN | {"SLURM_STEP_NUM_TASKS": "7"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"7 tasks on 3 nodes.*--ntasks-per-node"):
        ranks_per_node()
