"""Other places that a run's record is sent to."""

from collections.abc import Iterable

from pytorch_lightning.loggers import Logger, WandbLogger


def close_mirrors(loggers: Iterable[Logger], exit_code: int) -> None:
    """End the W&B run, so that it is on disk or sent, and marked as finished or failed.

    Args:
        loggers: The run's loggers.
        exit_code: 0 for a finished run, anything else for a failed one.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish(exit_code=exit_code)
