"""The processes of a run, as Lightning asks for them: Lightning does not detect a launcher itself."""

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from convatlas.utils.distributed import ranks

FIRST_PORT, NUM_PORTS = 15_000, 17_000
"""Ports below those that Linux assigns by itself."""


class LaunchedEnvironment(ClusterEnvironment):
    """The ranks that ``utils.distributed.ranks`` reads; rank 0 listens at ``MASTER_ADDR`` and ``MASTER_PORT``."""

    @property
    def creates_processes_externally(self) -> bool:
        """True: the launcher has started all processes."""
        return True

    @property
    def main_address(self) -> str:
        """The machine of rank 0."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """The port on which rank 0 listens."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """False: this environment is passed to Lightning explicitly."""
        return False

    def world_size(self) -> int:
        """The number of ranks."""
        return ranks().size

    def set_world_size(self, size: int) -> None:
        """Do nothing: the launcher has set the number of ranks."""

    def global_rank(self) -> int:
        """The number of this rank among all."""
        return ranks().rank

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the launcher has set the rank."""

    def local_rank(self) -> int:
        """The number of this rank on its machine."""
        return ranks().local_rank

    def node_rank(self) -> int:
        """The number of this machine."""
        return ranks().rank // ranks().per_node


class SrunEnvironment(LaunchedEnvironment):
    """The ranks are the tasks of one SLURM job step, whatever the flags of the job were.

    Lightning's own SLURM environment needs ``--ntasks-per-node``, is off in jobs named "bash", and handles signals: it
    saves a checkpoint within the handler, where ranks can wait for each other forever.
    """

    @property
    def main_address(self) -> str:
        """``MASTER_ADDR`` if it is set, otherwise the first node of the step."""
        first = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
        return os.environ.setdefault("MASTER_ADDR", first)

    @property
    def main_port(self) -> int:
        """``MASTER_PORT`` if it is set, otherwise a number that every rank computes from the job and the step."""
        number = 7919 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
        return int(os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + number % NUM_PORTS)))

    def node_rank(self) -> int:
        """The number of this node in the step."""
        return int(os.environ["SLURM_NODEID"])
