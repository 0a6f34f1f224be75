"""The processes that srun starts, as Lightning asks for them."""

import os

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment

from convatlas.training.launched import LaunchedEnvironment

FIRST_PORT, NUM_PORTS = 15_000, 17_000
"""Below those that Linux gives away by itself."""


class SrunEnvironment(LaunchedEnvironment):
    """Ranks are the tasks of one job step, whatever the flags of its job were.

    Lightning's own SLURM environment wants ``--ntasks-per-node``, is off in jobs named "bash", and handles the signals:
    it saves within the handler, where ranks can wait for each other without end.
    """

    @property
    def main_address(self) -> str:
        """The first node of the step, or ``MASTER_ADDR``."""
        first = SLURMEnvironment.resolve_root_node_address(os.environ["SLURM_STEP_NODELIST"])
        return os.environ.setdefault("MASTER_ADDR", first)

    @property
    def main_port(self) -> int:
        """A function of job and step, known to all ranks, or ``MASTER_PORT``."""
        number = 7919 * int(os.environ["SLURM_JOB_ID"]) + int(os.environ["SLURM_STEP_ID"])
        return int(os.environ.setdefault("MASTER_PORT", str(FIRST_PORT + number % NUM_PORTS)))

    def node_rank(self) -> int:
        """The node's number in the step."""
        return int(os.environ["SLURM_NODEID"])
