"""Other places that a run's record is sent to; rank zero opens and closes them."""

from collections.abc import Iterable
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger

from convatlas.errors import UserError

INIT_SECONDS = 30.0
"""How long the W&B server may take to answer at the start."""


def wandb_mirror(*, run_id: str, save_dir: str, settings: dict[str, Any], project: str, offline: bool) -> WandbLogger:
    """Open the W&B run of a run, under the run's own id.

    Args:
        run_id: The run's id, which is its name in W&B too.
        save_dir: Where W&B keeps its files.
        settings: The resolved configuration.
        project: The W&B project.
        offline: Write to the disk only; ``wandb sync`` sends it later.

    Raises:
        UserError: No API key, or the server does not answer or refuses.
    """
    import wandb  # a second of start-up that only W&B's users pay

    try:
        run = wandb.init(
            id=run_id,
            name=run_id,
            dir=save_dir,
            project=project,
            config=settings,
            mode="offline" if offline else "online",
            resume=None if offline else "allow",
            settings=wandb.Settings(silent=True, init_timeout=INIT_SECONDS),
        )
    except (wandb.errors.UsageError, wandb.errors.CommError) as error:
        raise UserError(
            f"tracking: W&B cannot be reached ({' '.join(str(error).split())}); "
            "set WANDB_API_KEY or run `wandb login`, or choose tracking=wandb_offline"
        ) from error
    return WandbLogger(experiment=run)


def close_mirrors(loggers: Iterable[Logger], exit_code: int) -> None:
    """End the W&B run, so that it is on disk or sent, and marked as finished or failed.

    Args:
        loggers: The run's loggers.
        exit_code: 0 for a finished run, anything else for a failed one.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=exit_code)
