"""The processes and libraries around a run."""

import logging
import os
import warnings

import torch
from omegaconf import DictConfig


def world_size(trainer: DictConfig) -> int:
    """Number of ranks that the trainer's configuration asks for: devices on each of its nodes."""
    devices = trainer.devices
    if isinstance(devices, int):
        per_node = devices
    elif devices == "auto":
        per_node = max(1, torch.cuda.device_count())
    else:
        per_node = len(devices)
    return per_node * int(trainer.num_nodes)


def quiet_libraries() -> None:
    """Keep what libraries say about themselves off the terminal; their warnings about the run stay."""
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15: nothing that a user could change.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Our loader runs threads, not processes: advice about worker processes does not apply to it.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
