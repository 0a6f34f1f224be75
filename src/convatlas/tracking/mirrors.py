"""Mirrors of the record of a run: W&B and TensorBoard."""

import os
from argparse import Namespace
from collections.abc import Iterable
from typing import Any, Literal

from pytorch_lightning.loggers import Logger, TensorBoardLogger

from convatlas.errors import UserError
from convatlas.tracking.wandb.artifacts import Policy
from convatlas.tracking.wandb.process import PublisherProcess, make_job
from convatlas.tracking.wandb.server import WandbError, credentials
from convatlas.utils.console import warn


class WandbMirror(Logger):
    """Publishes the record on W&B by another process while the run trains; ``convatlas sync`` publishes the rest.

    Args:
        directory: The run's directory.
        settings: The resolved configuration.
        mode: ``online``: the server must answer at the start; ``auto``: it may; ``offline``: it is not contacted.
        project: The W&B project.
        entity: Owner of the project; None is the user.
        group: Group of the run; None is the group of all runs that differ only in the seed.
        job_type: Role of the run in its group.
        tags: Tags of the W&B run.
        notes: Notes of the W&B run.
        checkpoints: Checkpoints that become artifacts.
        answer_seconds: Longest time that the server may take for an answer.
        finish_seconds: Longest time for the uploads that remain at the end.

    Raises:
        UserError: ``online``, but there is no API key, the server does not answer in time, or it refuses.
    """

    def __init__(
        self,
        *,
        directory: str,
        settings: dict[str, Any],
        mode: Literal["auto", "online", "offline"] = "auto",
        project: str = "convatlas",
        entity: str | None = None,
        group: str | None = None,
        job_type: str = "train",
        tags: list[str] | None = None,
        notes: str | None = None,
        checkpoints: Policy = "none",
        answer_seconds: float = 5.0,
        finish_seconds: float = 60.0,
    ) -> None:
        super().__init__()
        self._directory = directory
        self.description = "wandb offline; `convatlas sync` publishes the run"
        self._publisher: PublisherProcess | None = None
        if mode == "offline" or (mode == "auto" and os.environ.get("WANDB_MODE", "online") != "online"):
            return
        options = {"project": project, "entity": entity, "group": group, "job_type": job_type, "tags": tags}
        options |= {"notes": notes, "checkpoints": checkpoints}
        seconds = {"answer_seconds": answer_seconds, "finish_seconds": finish_seconds}
        try:
            credentials()  # without a key, no process has to start
            publisher = PublisherProcess(make_job(directory, settings, options, live=True, **seconds))
            self.description = f"wandb {publisher.opened()}"
        except WandbError as error:
            if mode == "online":
                raise UserError(f"tracking=wandb_online: {error}; tracking=wandb trains without it") from error
            self.description = f"wandb offline: {error}; `convatlas sync` publishes the run"
        else:
            self._publisher = publisher

    @property
    def name(self) -> str:
        """The kind of record."""
        return "wandb"

    @property
    def version(self) -> None:
        """None: only the publisher knows the version."""
        return None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Do nothing: the publisher reads the record."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the publisher has the configuration."""

    def close(self) -> None:
        """Wait for uploads to finish, up to a time limit; warn if some are still pending."""
        if self._publisher is None:
            return
        try:
            self._publisher.finish()
        except WandbError as error:
            warn(f"W&B: {error}; `convatlas sync runs={self._directory}` sends the rest")
        finally:
            self._publisher.end()


def tensorboard_mirror(*, directory: str, settings: dict[str, Any]) -> TensorBoardLogger:
    """Write TensorBoard's files to ``tensorboard/`` in the run's directory; each resumed attempt adds a file.

    Args:
        directory: The run's directory.
        settings: The resolved configuration, which is not used.

    Raises:
        UserError: The package that writes them is not installed.
    """
    try:
        return TensorBoardLogger(save_dir=directory, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError("tracking=tensorboard: a package is missing: pip install tensorboardX") from error


def close_mirrors(loggers: Iterable[Logger]) -> None:
    """Close the mirrors of the run, each within its time limit."""
    for logger in loggers:
        if isinstance(logger, WandbMirror):
            logger.close()


def description(logger: Logger) -> str:
    """Describe a mirror in one line."""
    return logger.description if isinstance(logger, WandbMirror) else f"{logger.name} {logger.save_dir}/{logger.name}"
