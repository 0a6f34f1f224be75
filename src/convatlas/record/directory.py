"""The directory of a run: the names of its files, and how the small ones are written and read."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from convatlas.errors import UnreadableError, UserError
from convatlas.record.files import read_config, read_jobs, read_provenance, read_summary
from convatlas.utils.console import warn
from convatlas.utils.files import (
    FORMAT,
    dumps,
    make_directory,
    read_lines,
    sync_directory,
    sync_file,
    write_atomic,
    writing,
)

RESERVED_BYTES = 16_384
"""Bytes on the disk that a run reserves for its last summary."""


class RunDirectory:
    """The directory ``<root>/<run_id>/``. Its attributes are the only place that spells the names of its files.

    Args:
        path: The directory; it need not exist.
        attempt: The number of the attempt at the same run, from 1.
        identity: The name that ``run_id`` gives to the run; None if the directory has that name.
    """

    def __init__(self, path: Path, attempt: int = 1, identity: str | None = None) -> None:
        self.path = path
        self.attempt = attempt
        self.identity = path.name if identity is None else identity
        self.run_id = path.name
        self.config_file = path / "config.yaml"
        self.class_list = path / "class_list.txt"
        self.provenance_file = path / "provenance.json"
        self.summary_file = path / "summary.json"
        self.jobs_file = path / "jobs.json"
        self.lock = path / "lock.json"
        self.metrics = path / "metrics.jsonl"
        self.evaluation = path / "evaluation"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.previous = self.checkpoints / "previous.ckpt"
        self.skipped = path / "skipped_images.txt"
        self._reserve = path / ".reserve"

    @classmethod
    def choose(cls, root: str, run_id: str, attempt: int, fresh: bool) -> "RunDirectory":
        """Name the directory of an attempt: ``…``, ``…-a2``, ``…-a3``. ``fresh`` takes the first free one."""
        run = cls(Path(root) / (run_id if attempt == 1 else f"{run_id}-a{attempt}"), attempt)
        return cls.choose(root, run_id, attempt + 1, fresh) if fresh and run.path.exists() else run

    @property
    def summary(self) -> dict[str, Any]:
        """The summary on record; empty before the run starts.

        Raises:
            UnreadableError: It is damaged, or written by a newer ConvAtlas.
        """
        return read_summary(self.summary_file)

    @property
    def finished(self) -> bool:
        """Whether the run reached its planned end."""
        return self.summary.get("state") == "finished"

    @property
    def has_begun(self) -> bool:
        """Whether the run has recorded its configuration."""
        return self.config_file.is_file()

    @property
    def config(self) -> dict[str, Any]:
        """The configuration on record.

        Raises:
            UnreadableError: It is absent or damaged.
        """
        return read_config(self.config_file)

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance on record; empty before the run starts.

        Raises:
            UnreadableError: It is damaged.
        """
        return read_provenance(self.provenance_file)

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The SLURM jobs that were submitted for the run, the oldest first.

        Raises:
            UnreadableError: The list is damaged.
        """
        return read_jobs(self.jobs_file)

    def add_job(self, **entries: Any) -> None:
        """Record a job that was submitted for the run."""
        write_atomic(self.jobs_file, dumps([*self.jobs, entries], indent=2))

    def create(self) -> None:
        """Make the directory.

        Raises:
            UserError: It cannot be written.
        """
        try:
            make_directory(self.checkpoints)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"run.root={self.path.parent}: cannot be written ({error.strerror})") from error

    def begin(self, config: dict[str, Any], class_list: list[str], provenance: dict[str, Any]) -> None:
        """Record what produces the run, before its first step.

        Args:
            config: The expanded configuration.
            class_list: The classes, in order.
            provenance: From ``collect_provenance``.

        Raises:
            UnreadableError: The summary or provenance of an earlier attempt is damaged; the file is not changed.
            UserError: The disk is full or cannot be written.
        """
        earlier, before = self.provenance, self.summary
        self._warn_of_damaged_classes()
        write_atomic(self.config_file, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        write_atomic(self.class_list, "".join(f"{name}\n" for name in class_list))
        if earlier:  # a resumed run keeps the provenance of its earlier starts
            provenance = provenance | {"earlier_attempts": [*earlier.pop("earlier_attempts", []), earlier]}
        write_atomic(self.provenance_file, dumps(provenance, indent=2))
        name = f"{config['model']['name']} on {config['data']['name']}"
        kept = {key: before[key] for key in ("started", "train_seconds") if key in before}
        entries = {"format": FORMAT, "run_id": self.run_id, "identity": self.identity, "name": name}
        entries |= {"state": "running", "started": now(), "host": platform.node()}
        write_atomic(self.summary_file, dumps(entries | kept, indent=2))
        write_atomic(self._reserve, os.urandom(RESERVED_BYTES))  # random bytes, so that no file system compresses them

    def _warn_of_damaged_classes(self) -> None:
        try:
            read_lines(self.class_list)
        except FileNotFoundError:
            pass
        except UnreadableError as error:
            warn(f"{error}; it is written again")

    def num_skipped(self) -> int:
        """Count the images that ``data.on_error=skip`` has left out, over all ranks and starts."""
        return len(set(self.skipped.read_bytes().splitlines())) if self.skipped.is_file() else 0

    def sync_record(self) -> None:
        """Flush the record to the disk.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        for path in (self.metrics, self.skipped):
            if path.is_file():
                with writing(path):
                    sync_file(path)
        with writing(self.path):
            sync_directory(self.path)

    def update(self, **entries: Any) -> None:
        """Add entries to the summary. The reserve makes room for them on a full disk.

        Raises:
            UserError: The disk cannot be written even so.
        """
        with writing(self.path):
            self._reserve.unlink(missing_ok=True)
        write_atomic(self.summary_file, dumps(self.summary | entries, indent=2))


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
