"""How many processor cores there are to use."""

import os


def usable_cores() -> int:
    """The cores that this process may run on: a batch system lends a part of the machine."""
    return len(os.sched_getaffinity(0))
