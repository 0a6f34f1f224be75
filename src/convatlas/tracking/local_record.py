"""The local record of a run: append-only, one JSON object a line, the truth that everything else mirrors."""

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from convatlas.errors import UserError
from convatlas.jsonio import dumps, write_atomic
from convatlas.tracking.lines import LineReader


class LocalRecord(Logger):
    """Appends metrics to ``metrics.jsonl`` with their optimizer step, epoch and wall-clock time.

    What is on record stays there, so that a mirror, which can only be appended to, may hold it already. A run that
    goes on from a checkpoint does the steps after it again: their metrics, which come out the same, are not recorded
    twice.

    Args:
        path: The file; its directory exists.
        version: The identity of the run.
    """

    def __init__(self, path: Path, version: str) -> None:
        super().__init__()
        self.path = path
        self._version = version
        self._recorded: set[tuple[int, str]] = set()

    @property
    def name(self) -> str:
        """The kind of record."""
        return "local"

    @property
    def version(self) -> str:
        """The identity of the run."""
        return self._version

    def resume(self, step: int) -> None:
        """Go on after a checkpoint of ``step``: a line torn by a kill goes, what is recorded from there on counts."""
        lines = read_metrics(self.path)
        write_atomic(self.path, "".join(dumps(line) + "\n" for line in lines))
        self._recorded = {(line["step"], name) for line in lines if line["step"] >= step for name in line}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line of what is not on record for this step.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        values = {name: value for name, value in metrics.items() if (step, name) not in self._recorded}
        epoch = metrics.get("epoch")
        values.pop("epoch", None)
        if not values:
            return
        about = {"step": step, "epoch": None if epoch is None else int(epoch), "time": round(time.time(), 3)}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(dumps(about | values) + "\n")
        except OSError as error:
            raise UserError(
                f"run.root: {self.path} cannot be written ({error.strerror}); make room there and give the same "
                "command again"
            ) from error

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in ``config.yaml`` before the first step."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a record; one torn by a kill, the last, is left out."""
    return LineReader(path).new()
