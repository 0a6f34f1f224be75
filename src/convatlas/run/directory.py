"""The directory of a run and the state it is in."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from convatlas.errors import UserError
from convatlas.jsonio import dumps, write_atomic


class RunDirectory:
    """``<root>/<run_id>/``: configuration, provenance, metrics, summary, checkpoints, evaluations.

    Args:
        path: The directory; it need not exist.
        attempt: Which of the attempts at the same run this is.
        identity: The name that ``run_id`` gives to the run; None where the directory has that name.
    """

    def __init__(self, path: Path, attempt: int = 1, identity: str | None = None) -> None:
        self.path = path
        self.attempt = attempt
        self.identity = path.name if identity is None else identity
        self.run_id = path.name
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"
        self.last = self.checkpoints / "last.ckpt"
        self.previous = self.checkpoints / "previous.ckpt"
        self.skipped = path / "skipped_images.txt"

    @classmethod
    def choose(cls, root: str, run_id: str, attempt: int, fresh: bool) -> "RunDirectory":
        """The directory of a run's attempt: ``…``, ``…-a2``, ``…-a3``; with ``fresh`` the first free one from there."""
        run = cls(Path(root) / (run_id if attempt == 1 else f"{run_id}-a{attempt}"), attempt)
        return cls.choose(root, run_id, attempt + 1, fresh) if fresh and run.path.exists() else run

    @property
    def summary(self) -> dict[str, Any]:
        """What is known of the run so far; empty before it starts."""
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def finished(self) -> bool:
        """Whether the run came to its planned end."""
        return self.summary.get("state") == "finished"

    @property
    def config(self) -> dict[str, Any]:
        """The configuration on record; empty before the run begins.

        Raises:
            UserError: The file is damaged.
        """
        path = self.path / "config.yaml"
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: expected a run's configuration as YAML") from error
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected a run's configuration as YAML")
        return found

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """The SLURM jobs that were submitted for the run, the oldest first."""
        path = self.path / "jobs.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []

    def add_job(self, **entries: Any) -> None:
        """Remember a job that was submitted."""
        write_atomic(self.path / "jobs.json", dumps([*self.jobs, entries], indent=2))

    def create(self) -> None:
        """Make the directory.

        Raises:
            UserError: It cannot be written.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"run.root={self.path.parent}: cannot be written ({error.strerror})") from error

    def begin(self, config: dict[str, Any], class_list: list[str], provenance: dict[str, Any]) -> None:
        """Write down what produces this run before its first step.

        Args:
            config: The expanded configuration.
            class_list: The classes, in order.
            provenance: What ``collect_provenance`` found.
        """
        write_atomic(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        write_atomic(self.path / "class_list.txt", "".join(f"{name}\n" for name in class_list))
        path = self.path / "provenance.json"
        if path.is_file():  # a resumed run keeps what it was before
            earlier = json.loads(path.read_text(encoding="utf-8"))
            provenance = provenance | {"earlier_attempts": [*earlier.pop("earlier_attempts", []), earlier]}
        write_atomic(path, dumps(provenance, indent=2))
        name = f"{config['model']['name']} on {config['data']['name']}"
        earlier = {key: self.summary[key] for key in ("started", "train_seconds") if key in self.summary}
        entries = {
            "run_id": self.run_id,
            "identity": self.identity,
            "name": name,
            "state": "running",
            "started": now(),
            "host": platform.node(),
        }
        write_atomic(self.path / "summary.json", dumps(entries | earlier, indent=2))

    def num_skipped(self) -> int:
        """Images that ``data.on_error=skip`` left out so far, over all ranks and attempts."""
        return len(set(self.skipped.read_text(encoding="utf-8").splitlines())) if self.skipped.is_file() else 0

    def update(self, **entries: Any) -> None:
        """Add entries to the summary."""
        write_atomic(self.path / "summary.json", dumps(self.summary | entries, indent=2))


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
