"""The number of processor cores that this process may use."""

import os


def usable_cores() -> int:
    """Count the cores that this process may run on; a batch system may assign only a part of the machine."""
    return len(os.sched_getaffinity(0))
