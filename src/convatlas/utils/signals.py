"""The signals that stop a process: a flag that remembers them, and what happens to them at the exit."""

import signal
from collections.abc import Sequence
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that a launcher, SLURM or a person sends to stop a run: USR1 ahead of the time limit, TERM on preemption."""
ALL_STOP_SIGNALS = (*STOP_SIGNALS, signal.SIGINT)
"""The same and Ctrl-C."""

EXIT_STATUS = 75
"""Exit status of a stopped process that the same command continues: "temporary failure" of sysexits.h."""

_ends_after_work = False


class Preempted(SystemExit):
    """A signal stopped the work; the exit status is ``EXIT_STATUS``.

    Args:
        signal_name: Name of the signal, or the process that received it.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(EXIT_STATUS)
        self.signal_name = signal_name

    def __str__(self) -> str:
        return self.signal_name


class StopFlag:
    """Remembers stop signals, so that the work can end at a safe place.

    Args:
        numbers: The signals.

    Attributes:
        received: Signals that have arrived, the oldest first.
    """

    def __init__(self, numbers: Sequence[signal.Signals] = ALL_STOP_SIGNALS) -> None:
        self.received: list[signal.Signals] = []
        self._before = {number: signal.getsignal(number) for number in numbers}

    def listen(self) -> None:
        """Handle the signals from now on."""
        for number in self._before:
            signal.signal(number, self._receive)

    def restore(self) -> None:
        """Restore the handlers that were installed when this flag was created."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def release(self) -> None:
        """Stop handling the signals after the work.

        A command ignores them until its exit: the default handlers would end it, and change its exit status. A caller
        in Python gets its own handlers back.
        """
        if _ends_after_work:
            ignore_stop_signals()
        else:
            self.restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(signal.Signals(number))


def end_after_work() -> None:
    """Declare that this process is a command, which exits when its work is done."""
    global _ends_after_work
    _ends_after_work = True


def ignore_stop_signals() -> None:
    """Ignore ``STOP_SIGNALS`` until the process has exited, which takes seconds: they would change its exit status."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
