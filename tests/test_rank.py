import pytest

from convatlas.errors import UserError
from convatlas.rank import by_srun, by_torchrun, is_rank_zero, num_nodes, ranks_per_node

TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "3", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NUM_NODES": "3"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "6", "SLURM_NNODES": "3", "SLURM_JOB_ID": "7"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {**TORCHRUN, **SRUN, **BATCH_SCRIPT, "LOCAL_RANK": ""}:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "nodes", "per_node", "zero"),
    [
        ({}, 1, 1, True),
        (TORCHRUN, 2, 4, False),
        (SRUN, 3, 2, True),
        (SRUN | TORCHRUN, 2, 4, False),  # torchrun within a job step
        (BATCH_SCRIPT, 1, 1, True),  # one process in a batch script, whatever the job could start
    ],
)
def test_launchers_say_how_many_ranks_there_are(
    environment: dict[str, str], nodes: int, per_node: int, zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (num_nodes(), ranks_per_node(), is_rank_zero()) == (nodes, per_node, zero)
    assert by_torchrun() == ("RANK" in environment)
    assert by_srun() == (environment == SRUN)


def test_nodes_with_unequal_numbers_of_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SRUN | {"SLURM_STEP_NUM_TASKS": "7"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"7 tasks on 3 nodes.*--ntasks-per-node"):
        ranks_per_node()
