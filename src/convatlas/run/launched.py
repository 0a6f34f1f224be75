"""The processes that a launcher has started, as Lightning asks for them."""

import os

from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

from convatlas.rank import ranks


class LaunchedEnvironment(ClusterEnvironment):
    """Ranks by their variables; they meet at ``MASTER_ADDR`` and ``MASTER_PORT``."""

    @property
    def creates_processes_externally(self) -> bool:
        """Yes: the launcher does."""
        return True

    @property
    def main_address(self) -> str:
        """The machine of rank 0."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """The port there."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """Lightning is told, it does not look."""
        return False

    def world_size(self) -> int:
        """How many ranks there are."""
        return ranks().size

    def set_world_size(self, size: int) -> None:
        """Nothing: the launcher has set it."""

    def global_rank(self) -> int:
        """Which rank this is."""
        return ranks().rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the launcher has set it."""

    def local_rank(self) -> int:
        """Which rank this is on its machine."""
        return ranks().local_rank

    def node_rank(self) -> int:
        """Which machine this is."""
        return ranks().rank // ranks().per_node
