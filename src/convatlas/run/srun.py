"""The processes that srun starts, as Lightning asks for them."""

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

FIRST_PORT, NUM_PORTS = 15_000, 20_000


class SrunEnvironment(ClusterEnvironment):
    """Ranks are the tasks of one job step, whatever the flags of its job were.

    Lightning's own SLURM environment wants ``--ntasks-per-node``, is off in jobs named "bash", and handles the signals:
    it saves within the handler, where ranks can wait for each other without end.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """Yes: srun does."""
        return True

    @property
    def main_address(self) -> str:
        """The first node of the step, or ``MASTER_ADDR``."""
        first = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
        return os.environ.setdefault("MASTER_ADDR", first)

    @property
    def main_port(self) -> int:
        """A function of job and step, known to all ranks, or ``MASTER_PORT``."""
        number = 100 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
        return int(os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + number % NUM_PORTS)))

    @staticmethod
    def detect() -> bool:
        """Lightning is told, it does not look."""
        return False

    def world_size(self) -> int:
        """Tasks of the step."""
        return int(os.environ["SLURM_STEP_NUM_TASKS"])

    def set_world_size(self, size: int) -> None:
        """Nothing: srun has set it."""

    def global_rank(self) -> int:
        """The task's number in the step."""
        return int(os.environ["SLURM_PROCID"])

    def set_global_rank(self, rank: int) -> None:
        """Nothing: srun has set it."""

    def local_rank(self) -> int:
        """The task's number on its node."""
        return int(os.environ["SLURM_LOCALID"])

    def node_rank(self) -> int:
        """The node's number in the step."""
        return int(os.environ["SLURM_NODEID"])
