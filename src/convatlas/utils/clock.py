"""Measure the phases between the start of the process and the first optimizer step."""

import time

import psutil


class StartupClock:
    """Splits the time since the process started into named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = psutil.Process().create_time()

    def mark(self, name: str) -> None:
        """Store the seconds since the previous mark under ``name``."""
        now = time.time()
        self.seconds[name] = round(now - self._last, 3)
        self._last = now


STARTUP = StartupClock()
