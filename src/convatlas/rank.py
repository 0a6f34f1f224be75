"""Which of the run's processes this is, known before the process group exists."""

import os

VARIABLES = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
"""Set by torchrun, by Lightning for the processes it starts, and by srun; the first that is set counts."""


def is_rank_zero() -> bool:
    """Whether this process writes files and prints results."""
    return int(next((os.environ[name] for name in VARIABLES if name in os.environ), "0")) == 0
