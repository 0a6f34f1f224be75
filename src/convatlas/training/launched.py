"""Tells Lightning about the ranks that a launcher has started."""

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

from convatlas.utils.distributed import ranks


class LaunchedEnvironment(ClusterEnvironment):
    """The ranks as ``rank.ranks`` reads them from variables; they meet at ``MASTER_ADDR`` and ``MASTER_PORT``."""

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
