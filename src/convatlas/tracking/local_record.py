"""The local record of a run: append-only, one JSON object a line, the truth that everything else mirrors."""

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from convatlas.errors import UserError
from convatlas.jsonio import dumps, write_atomic


class LocalRecord(Logger):
    """Appends metrics to ``metrics.jsonl`` with their optimizer step, epoch and wall-clock time.

    Args:
        path: The file; its directory exists.
        version: The identity of the run.
    """

    def __init__(self, path: Path, version: str) -> None:
        super().__init__()
        self.path = path
        self._version = version

    @property
    def name(self) -> str:
        """The kind of record."""
        return "local"

    @property
    def version(self) -> str:
        """The identity of the run."""
        return self._version

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        values = dict(metrics)
        epoch = values.pop("epoch", None)
        line = {
            "step": step,
            "epoch": None if epoch is None else int(epoch),
            "time": round(time.time(), 3),
            **values,
        }
        try:
            with self.path.open("a") as file:
                file.write(dumps(line) + "\n")
        except OSError as error:
            raise UserError(
                f"run.root: {self.path} cannot be written ({error.strerror}); make room there and give the same command again"
            ) from error

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the configuration is in ``config.yaml`` before the first step."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a record; one torn by a kill, the last, is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def cut_back(path: Path, step: int) -> None:
    """Drop the lines of ``step`` and later, which a resumed run will write again."""
    kept = [line for line in read_metrics(path) if line["step"] < step]
    write_atomic(path, "".join(dumps(line) + "\n" for line in kept))
