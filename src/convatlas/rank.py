"""Which of the run's processes this is and how many there are, known before the process group exists."""

import os

from convatlas.errors import UserError

VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Set by torchrun, by Lightning for the processes it starts, and by srun; the first that is set counts."""


def is_rank_zero() -> bool:
    """Whether this process writes files and prints results."""
    return int(next((os.environ[name] for name in VARIABLES if name in os.environ), "0")) == 0


def by_torchrun() -> bool:
    """Whether torchrun started this process, be it within a SLURM job."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Whether srun started this process itself; a batch script that runs in a job is not."""
    return "SLURM_STEP_NUM_TASKS" in os.environ and not by_torchrun()


def num_nodes() -> int:
    """Machines that torchrun or srun started this run on; 1 without them."""
    if by_torchrun():
        return int(os.environ["GROUP_WORLD_SIZE"])
    return int(os.environ["SLURM_STEP_NUM_NODES"]) if by_srun() else 1


def ranks_per_node() -> int:
    """Processes of this run on each machine.

    Raises:
        UserError: srun started more of them on one machine than on another.
    """
    if by_torchrun():
        return int(os.environ["LOCAL_WORLD_SIZE"])
    if not by_srun():
        return 1
    tasks, nodes = int(os.environ["SLURM_STEP_NUM_TASKS"]), num_nodes()
    if tasks % nodes:
        raise UserError(f"srun: {tasks} tasks on {nodes} nodes, expected as many on each: give --ntasks-per-node")
    return tasks // nodes
