"""The signals that tell a run to stop, and what becomes of them when there is nothing left to stop."""

import signal
from collections.abc import Mapping
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What a launcher, SLURM or a person sends."""

_ends_after_work = False


def end_after_work() -> None:
    """Say that this process is a command: it exits when its work is done, and its status tells of the work."""
    global _ends_after_work
    _ends_after_work = True


def ignore_stop_signals() -> None:
    """Ignore the signals until the process has exited: it takes seconds in which they would change its status."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def release_stop_signals(before: Mapping[signal.Signals, Any]) -> None:
    """Stop handling the signals after the work.

    Args:
        before: The handlers of before, which a caller in Python gets back. A command ignores the signals instead:
            were the default handlers restored, a signal in the moment before the exit would end it.
    """
    if _ends_after_work:
        ignore_stop_signals()
        return
    for number, handler in before.items():
        signal.signal(number, handler)
