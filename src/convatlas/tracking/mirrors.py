"""Other places that a run's record is sent to while it trains."""

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
    """Lets a process beside the run publish the record as it grows; ``convatlas sync`` does what it could not.

    Args:
        directory: The run's directory.
        settings: The resolved configuration.
        mode: ``online``: the server must answer at the start; ``auto``: it may; ``offline``: it is not asked.
        project: The W&B project.
        entity: Whose project; None is the user's own.
        group: What the run is grouped with; None: the runs that differ from it in nothing but the seed.
        job_type: What the run is in its group.
        tags: Tags of the W&B run.
        notes: Notes of the W&B run.
        checkpoints: Which checkpoints become artifacts.
        answer_seconds: How long the server may take for an answer.
        finish_seconds: How long it may take at the end for what is left.

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
            credentials()  # without a key, no process need start
            publisher = PublisherProcess(make_job(directory, settings, options, live=True, **seconds))
            self.description = f"wandb {publisher.opened()}"
        except WandbError as error:
            if mode == "online":
                raise UserError(f"tracking=wandb_online: {error}; tracking=wandb goes on without") from error
            self.description = f"wandb offline: {error}; `convatlas sync` publishes the run"
        else:
            self._publisher = publisher

    @property
    def name(self) -> str:
        """The kind of record."""
        return "wandb"

    @property
    def version(self) -> None:
        """The publisher knows it."""
        return None

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Nothing: the publisher reads the record."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the publisher has the configuration."""

    def close(self) -> None:
        """Wait, not without end, until all is sent; say so where it is not."""
        if self._publisher is None:
            return
        try:
            self._publisher.finish()
        except WandbError as error:
            warn(f"W&B: {error}; `convatlas sync runs={self._directory}` sends the rest")
        finally:
            self._publisher.end()


def tensorboard_mirror(*, directory: str, settings: dict[str, Any]) -> TensorBoardLogger:
    """TensorBoard's files, in ``tensorboard/`` of the run's directory; each resumed attempt adds one.

    Args:
        directory: The run's directory.
        settings: The resolved configuration, which TensorBoard has no place for.

    Raises:
        UserError: The package that writes them is not installed.
    """
    try:
        return TensorBoardLogger(save_dir=directory, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise UserError("tracking=tensorboard: needs a package more: pip install tensorboardX") from error


def close_mirrors(loggers: Iterable[Logger]) -> None:
    """End what mirrors the run, within the time that each allows."""
    for logger in loggers:
        if isinstance(logger, WandbMirror):
            logger.close()


def description(logger: Logger) -> str:
    """A mirror in one line for a person."""
    return logger.description if isinstance(logger, WandbMirror) else f"{logger.name} {logger.save_dir}/{logger.name}"
