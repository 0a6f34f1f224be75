"""Waiting for what other processes do, without a race: trainings are held at a step until the test goes on."""

import os
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 600
"""Seconds after which a test that waits has failed: more than the slowest machine needs."""


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for something that another process or thread does.

    Args:
        condition: Whether it is done.
        seconds: How long at most.

    Raises:
        TimeoutError: It is not done in that time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds} s")
        time.sleep(0.02)


class Gate:
    """Holds the trainings of other processes before a step; one that is told to stop goes on, and saves itself.

    It is opened at the end of a ``with``, so that a test that fails leaves no process behind.

    Args:
        folder: Where the processes meet; made.
        step: How many optimizer steps a training takes before it holds.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "step").write_text(str(step), encoding="utf-8")

    @property
    def variables(self) -> dict[str, str]:
        """What the environment of a process says so that its trainings, and those that it starts, are held."""
        path = [str(Path(__file__).with_name("gate")), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, path)), "CONVATLAS_TEST_GATE": str(self.folder)}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process that is a child of this one, with these variables."""
        return {**os.environ, **self.variables}

    def wait(self, number: int = 1) -> None:
        """Wait until so many processes are held."""
        until(lambda: len(list(self.folder.glob("held-*"))) >= number)

    def open(self, *pids: int) -> None:
        """Let some processes go on; without a number let all go on, and hold no other."""
        for name in [f"open-{pid}" for pid in pids] or ["open"]:
            (self.folder / name).touch()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.open()
