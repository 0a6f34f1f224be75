"""The processes and libraries around a run."""

import logging
import os
import warnings
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from pytorch_lightning import Trainer

from convatlas.errors import UserError


def world_size(trainer: DictConfig) -> int:
    """Number of ranks that the trainer's configuration asks for: devices on each of its nodes."""
    devices = trainer.devices
    if devices == "auto":
        devices = 1 if trainer.accelerator == "cpu" else max(1, torch.cuda.device_count())
    return int(devices) * int(trainer.num_nodes)


def build_trainer(config: DictConfig, **arguments: Any) -> Trainer:
    """Make the trainer of a configuration; data are dealt to the ranks by the data module alone.

    Raises:
        UserError: Lightning refuses a setting, such as an accelerator that is not there.
    """
    try:
        trainer: Trainer = instantiate(config, use_distributed_sampler=False, enable_model_summary=False, **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, MisconfigurationException | ValueError):
            raise UserError(f"trainer: {' '.join(str(error.__cause__).split())}") from error
        raise
    return trainer


def quiet_libraries() -> None:
    """Keep what libraries say about themselves off the terminal; their warnings about the run stay."""
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15: nothing that a user could change.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # A resumed run writes into its own directory: that is meant.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # Our loader runs threads, not processes: advice about worker processes does not apply to it.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
