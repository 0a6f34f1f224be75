"""The rank of this process and the number of ranks, known before the process group exists.

Only this module reads the variables of launchers. A launcher counts if it has started more than one process.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from convatlas.errors import UserError

MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Variables with the address and a free port of rank 0, where the ranks connect."""
FAMILIES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # Kubeflow, Ray, scripts
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # mpiexec of MPICH and Intel MPI
)
"""The variables of launchers for the rank, the number of ranks, and both on this machine."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a run, as one of them sees them.

    Args:
        rank: Number of this rank among all, from 0.
        size: Number of ranks.
        local_rank: Number of this rank on its machine, from 0.
        per_node: Number of ranks on each machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    per_node: int = 1


def ranks() -> Ranks:
    """Read the ranks that a launcher has started; without a launcher there is one.

    torchrun comes first, because it may run within a job step or under MPI. The variables of ``FAMILIES`` come second,
    because such a launcher may run within a job step, too. srun comes last.

    Raises:
        UserError: The variables contradict each other, or are not enough for the ranks to connect.
    """
    if by_torchrun():
        per_node = _number("LOCAL_WORLD_SIZE")
        size = per_node * _number("GROUP_WORLD_SIZE")
        return Ranks(_number("RANK"), size, int(os.environ.get("LOCAL_RANK", "0")), per_node)
    return _by_variables() or (_by_srun() if by_srun() else Ranks())


def is_rank_zero() -> bool:
    """Whether this process writes files and prints results."""
    return ranks().rank == 0


def num_nodes() -> int:
    """Number of machines of this run; 1 without a launcher."""
    return ranks().size // ranks().per_node


def ranks_per_node() -> int:
    """Number of ranks on each machine; 1 without a launcher."""
    return ranks().per_node


def by_torchrun() -> bool:
    """Whether torchrun started this process, within a SLURM job or not."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def by_srun() -> bool:
    """Whether srun, and no other launcher, started this process.

    srun does not start the batch script of a job. A command typed into a shell of ``srun --pty`` is one process,
    however many tasks the step has; a process that another srun starts from that shell is not at a terminal.
    """
    shell = "SLURM_PTY_PORT" in os.environ and os.isatty(0)
    return _in_step() and not shell and not by_torchrun() and _by_variables() is None


def by_variables() -> bool:
    """Whether a launcher that is neither torchrun nor srun has started several processes."""
    return not by_torchrun() and _by_variables() is not None


def _by_variables() -> Ranks | None:
    """Read the ranks from the first family of variables for several processes; None if there is none."""
    found = next((found for names in FAMILIES if (found := _family(*names)) is not None), None)
    own = {"OMPI_COMM_WORLD_SIZE", "SLURM_PROCID"} & set(os.environ)
    if found is None and os.environ.get("PMIX_RANK") and not own:
        _refuse("PMIX_RANK", "PMIX_SIZE", {"PMIX_RANK": os.environ["PMIX_RANK"]}, "it does not say how many there are")
    return found


def _family(rank: str, size: str, local_rank: str, local_size: str) -> Ranks | None:
    names = (rank, size, local_rank, local_size)
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    step = {rank: os.environ.get("SLURM_PROCID"), size: os.environ.get("SLURM_STEP_NUM_TASKS")}
    if _in_step() and all(given.get(name, value) == value for name, value in step.items() if rank in given):
        return None  # the same values as srun's
    number = {name: _number(name) for name in given}
    which = (rank, local_rank)
    if size not in number and not any(number.get(name) for name in which):
        return None
    if number.get(size) == 1 and not any(number.get(name) for name in which):
        return None  # one process, or variables left over in a shell
    missing = [name for name in (rank, size) if name not in number]
    for name in which:
        if name in number and number[name] >= number.get(size, number[name] + 1):
            _refuse(rank, size, given, f"{name} must be below {size}")
    missing += [name for name in MEETING if not os.environ.get(name)]
    if missing:
        _refuse(rank, size, given, f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    _number("MASTER_PORT")
    local = number.get(local_rank, 0)
    # The smallest number per machine that covers the local rank and divides the number of ranks.
    fewest = next(count for count in range(local + 1, number[size] + 1) if number[size] % count == 0)
    found = Ranks(number[rank], number[size], local, number.get(local_size, fewest))
    if found.local_rank >= found.per_node or found.size % found.per_node:
        _refuse(rank, size, given, "expected as many processes on each machine")
    return found


def _in_step() -> bool:
    return "SLURM_STEP_NUM_TASKS" in os.environ


def _by_srun() -> Ranks:
    tasks, nodes = _number("SLURM_STEP_NUM_TASKS"), _number("SLURM_STEP_NUM_NODES")
    if tasks % nodes:
        raise UserError(f"srun: {tasks} tasks on {nodes} nodes, expected as many on each: give --ntasks-per-node")
    return Ranks(_number("SLURM_PROCID"), tasks, int(os.environ.get("SLURM_LOCALID", "0")), tasks // nodes)


def _number(name: str) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name}={text}: expected a number from 0; a launcher sets it, or unset it")
    return int(text)


def _refuse(rank: str, size: str, given: Mapping[str, str], reason: str) -> NoReturn:
    values = " ".join(f"{name}={value}" for name, value in given.items())
    raise UserError(
        f"{values}: {reason}; give each process {rank}, {size}, {' and '.join(MEETING)}, start with torchrun or srun, "
        f"or unset {', '.join(given)} for a run of one process"
    )
