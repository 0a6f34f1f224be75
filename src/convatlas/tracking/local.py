"""The local record of a run: an append-only file with one JSON object per line, which all mirrors follow."""

import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from convatlas.record.lines import LineReader
from convatlas.utils.files import dumps, sync_file, writing


class LocalRecord(Logger):
    """Appends metrics to ``metrics.jsonl`` with their optimizer step, epoch and wall-clock time.

    A recorded line is never removed, because a mirror, which can only be appended to, may already hold it. A run that
    resumes from a checkpoint repeats the steps after it: their metrics are the same and are not recorded twice.

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
        """Resume after a checkpoint of ``step``: remove an incomplete last line, keep all others.

        Raises:
            UnreadableError: Another line is damaged; the file stays as it is.
            UserError: The disk cannot be written.
        """
        reader = LineReader(self.path)
        lines = reader.new()
        if reader.torn:
            with writing(self.path):
                os.truncate(self.path, reader.end)
                sync_file(self.path)
        self._recorded = {(line["step"], name) for line in lines if line["step"] >= step for name in line}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one line with the metrics that are not yet recorded for this step.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        values = {name: value for name, value in metrics.items() if (step, name) not in self._recorded}
        epoch = metrics.get("epoch")
        values.pop("epoch", None)
        if not values:
            return
        about = {"step": step, "epoch": None if epoch is None else int(epoch), "time": round(time.time(), 3)}
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(dumps(about | values) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds the configuration before the first step."""
