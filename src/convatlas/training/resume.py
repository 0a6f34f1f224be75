"""Choose the checkpoint from which an unfinished run resumes: the newest one whose steps are all in the record."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.lines import LineReader
from convatlas.training.callbacks.checkpointing import recorded_bytes
from convatlas.training.checkpoint_io import KEY, newest_checkpoint, read_run_checkpoint
from convatlas.utils.console import warn
from convatlas.utils.distributed import is_rank_zero


@dataclass(frozen=True)
class ResumePoint:
    """The point at which a run resumes.

    Attributes:
        checkpoint: The checkpoint; None if the run has no checkpoint and starts from the beginning.
        step: The optimizer step of the checkpoint; 0 without one.
    """

    checkpoint: Path | None = None
    step: int = 0


def resume_point(run: RunDirectory, read: Callable[[Path], dict[str, Any]] = read_run_checkpoint) -> ResumePoint:
    """Choose the checkpoint from which a run resumes, without writing anything.

    If the record lacks steps of ``last.ckpt``, a warning says so. If it holds the steps of ``previous.ckpt``, the run
    resumes from there: the missing steps are trained and recorded again.

    Args:
        run: The run's directory.
        read: Reads a checkpoint from which training can resume, or raises a ``UserError`` that names it.

    Raises:
        UserError: There are checkpoints, but none can be read.
        UnreadableError: The record is damaged.
    """
    newest = newest_checkpoint(run.last, run.previous, read=read)
    if newest is None:
        return ResumePoint()
    path, checkpoint = newest
    point = ResumePoint(path, checkpoint["global_step"])
    reader = LineReader(run.metrics)
    steps = [line["step"] for line in reader.new()]
    lost = lost_steps(steps, reader.end, checkpoint)
    if not lost:
        return point
    message = f"{run.metrics} lacks steps {lost[0]:,} to {lost[-1]:,} of the {point.step:,} that {path.name} holds"
    if path == run.last and run.previous.is_file():
        try:
            earlier = read(run.previous)
        except UserError:
            earlier = None
        if earlier is not None and not lost_steps(steps, reader.end, earlier):
            _warn(f"{message}: resuming from {run.previous.name}, which trains them again")
            return ResumePoint(run.previous, earlier["global_step"])
    _warn(f"{message}: their metrics are lost, the weights are not; resuming from {path.name}")
    return point


def lost_steps(steps: list[int], end: int, checkpoint: dict[str, Any]) -> range:
    """Find the last steps of a checkpoint that are missing in a record, counted from 0; empty if none is missing.

    Args:
        steps: The steps of the record's lines.
        end: The size of the complete lines of the record in bytes.
        checkpoint: A checkpoint of the run.
    """
    step = checkpoint["global_step"]
    interval = checkpoint[KEY]["config"].get("trainer", {}).get("log_every_n_steps", 1)
    newest = max((recorded for recorded in steps if recorded < step), default=-1)
    due = step - step % interval - 1
    if newest >= due and end >= recorded_bytes(checkpoint):
        return range(0)
    return range(min(newest + 1, step - 1), step)


def _warn(message: str) -> None:
    if is_rank_zero():
        warn(message)
