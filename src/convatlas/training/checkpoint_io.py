"""Write checkpoints atomically, and read them without executing code from them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins.io import CheckpointIO

from convatlas.data.class_list import ClassList, has_control_characters
from convatlas.errors import NewerFormatError, UserError
from convatlas.utils.console import warn
from convatlas.utils.distributed import is_rank_zero
from convatlas.utils.files import FORMAT, check_format, sync_directory, writing
from convatlas.utils.nesting import is_writable
from convatlas.utils.tensors import read_torch_file

KEY = "convatlas"
"""Key of a checkpoint that holds the configuration and the class list of its run."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes to a temporary file, syncs and renames it, so that a kill leaves the previous checkpoint intact."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint of plain containers and tensors.

        Raises:
            UserError: The disk is full or cannot be written; the previous checkpoint is intact.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        with writing(path, temporary):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                _save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(path.parent)
            temporary.replace(path)
            sync_directory(path.parent)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint; pickled code is never executed."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a superseded checkpoint."""
        Path(path).unlink(missing_ok=True)


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch hides the error of a full disk
            raise error.__context__ from error
        raise


class CheckpointMetadata(Callback):
    """Adds the configuration and the class list to every checkpoint.

    Args:
        run_id: The run that writes the checkpoint.
        config: Its resolved configuration.
        class_list: Its classes, in the order of the network's outputs.
    """

    def __init__(self, run_id: str, config: dict[str, Any], class_list: ClassList) -> None:
        self.metadata = {
            "format": FORMAT,
            "run_id": run_id,
            "config": config,
            "class_list": list(class_list.names),
            "class_list_hash": class_list.hash,
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the metadata to a checkpoint before it is written."""
        checkpoint[KEY] = self.metadata


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read any checkpoint that ``torch.load(weights_only=True)`` accepts, onto the CPU.

    Raises:
        UserError: No such file, or one that is truncated or not a checkpoint.
    """
    checkpoint: dict[str, Any] = read_torch_file(path, "checkpoint")
    return checkpoint


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ConvAtlas, with its configuration and class list.

    The configuration is not checked yet: ``restore.open_checkpoint`` does so before anything is constructed from it.

    Raises:
        UserError: The file is unreadable, or another program wrote it.
    """
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise UserError(
            f"checkpoint={path}: not written by convatlas train; load foreign weights with model=… model.weights={path}"
        )
    metadata = checkpoint[KEY] if isinstance(checkpoint[KEY], dict) else {}
    check_format(f"checkpoint={path}", metadata)
    state, step = checkpoint.get("state_dict"), checkpoint.get("global_step")
    config, class_list = metadata.get("config"), metadata.get("class_list")
    if not (
        isinstance(state, dict)
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items())
        and isinstance(step, int)
        and isinstance(config, dict)
        and _is_class_list(class_list)
        and all(isinstance(config.get(part), dict) for part in ("model", "data"))
    ):
        raise UserError(
            f"checkpoint={path}: incomplete; expected state_dict, global_step, and under '{KEY}' the configuration of "
            "model and data and the class_list"
        )
    return checkpoint


def _is_class_list(value: Any) -> bool:
    """Whether a value is a list of class names: distinct, without control characters, encodable as UTF-8."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return False
    return len(set(value)) == len(value) and not any(map(has_control_characters, value)) and is_writable(value)


def equal_weights(first: Path, second: Path) -> bool | None:
    """Whether two checkpoints hold the same weights, bit for bit; None if one does not exist."""
    if not (first.is_file() and second.is_file()):
        return None
    weights, others = (read_checkpoint(path)["state_dict"] for path in (first, second))
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def newest_checkpoint(
    *candidates: Path, read: Callable[[Path], dict[str, Any]] = read_run_checkpoint
) -> tuple[Path, dict[str, Any]] | None:
    """Find the newest readable checkpoint of a run; rank 0 warns of damaged ones before it.

    Args:
        candidates: Files, the newest first, which need not exist.
        read: Reads one of them, or raises a ``UserError`` that names it.

    Returns:
        Path and content of the checkpoint, or None if there is none.

    Raises:
        UserError: None of the existing checkpoints can be read, or a newer version of ConvAtlas wrote the newest.
    """
    damaged = None
    for path in filter(Path.is_file, candidates):
        try:
            checkpoint = read(path)
        except NewerFormatError:
            raise  # an older checkpoint would repeat the work of the newer version
        except UserError as error:
            damaged = damaged or error
            continue
        if damaged is not None and is_rank_zero():
            warn(f"{damaged}; resuming from {path.name}")
        return path, checkpoint
    if damaged is not None:
        raise UserError(f"{damaged}; no other checkpoint is left: run.fresh=true starts a new attempt") from damaged
    return None
