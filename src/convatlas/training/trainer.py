"""Build the Lightning trainer of a run, and handle lost ranks."""

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig
from pydantic import PositiveFloat
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy

from convatlas.errors import RankLostError, UserError
from convatlas.training.cluster_environments import LaunchedEnvironment, SrunEnvironment
from convatlas.training.lightning_internals import disable_signal_handlers
from convatlas.utils.distributed import by_srun, by_torchrun, by_variables, num_nodes, ranks, ranks_per_node


def world_size(trainer: DictConfig) -> int:
    """Number of ranks of a trainer's configuration: devices times nodes."""
    devices = trainer.devices
    if devices == "auto":
        devices = 1 if trainer.accelerator == "cpu" else max(1, torch.cuda.device_count())
    return int(devices) * int(trainer.num_nodes)


def ddp(timeout_minutes: PositiveFloat, backend: Literal["gloo", "nccl"] | None = None) -> DDPStrategy:
    """Distributed data parallel: each rank has the whole network, gradients are averaged (Li et al. 2020).

    Args:
        timeout_minutes: Longest time that a rank may keep the others waiting before it counts as lost.
        backend: How ranks exchange gradients; None is NCCL on GPUs and gloo on CPUs. gloo lets ranks share a GPU.
    """
    timeout = timedelta(minutes=timeout_minutes)
    return DDPStrategy(timeout=timeout, process_group_backend=backend, gradient_as_bucket_view=True)


def build_trainer(config: DictConfig, plugins: Sequence[Any] = (), **arguments: Any) -> Trainer:
    """Build the trainer of a configuration; the data module, not Lightning, divides the data between the ranks.

    Raises:
        UserError: Lightning refuses a setting, such as a missing accelerator; the launcher has started another number
            of ranks; ``sync_batchnorm`` without GPUs.
    """
    if ranks().size > 1:
        check_ranks(config)
    wanted = world_size(config)
    if wanted == 1:
        arguments["strategy"] = "auto"
    try:
        trainer: Trainer = instantiate(
            config,
            plugins=[*plugins, _environment()],
            use_distributed_sampler=False,
            enable_model_summary=False,
            **arguments,
        )
    except InstantiationException as error:
        if isinstance(error.__cause__, MisconfigurationException | ValueError):
            raise UserError(f"trainer: {' '.join(str(error.__cause__).split())}") from error
        raise
    disable_signal_handlers(trainer)
    if config.sync_batchnorm and wanted > 1 and trainer.strategy.root_device.type == "cpu":
        raise UserError("trainer.sync_batchnorm=true: PyTorch has it for GPUs only; leave it out on CPUs")
    return trainer


def check_ranks(trainer: DictConfig) -> None:
    """Refuse a configuration for another number of ranks than were started.

    Raises:
        UserError: Naming the keys and both numbers.
    """
    if world_size(trainer) == ranks().size:
        return
    started = f"{ranks_per_node()} ranks on each of {num_nodes()} nodes were started"
    raise UserError(
        f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}: "
        f"{started if ranks().size > 1 else 'one process was started'}; leave both keys out, or start as many with "
        "srun or torchrun"
    )


def is_lost_rank(error: BaseException) -> bool:
    """Whether an exception means that another rank ended or does not respond; those of gloo have no own class."""
    return isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def rank_lost(error: BaseException) -> RankLostError:
    """The exception to report if ``is_lost_rank`` is true."""
    return RankLostError(
        f"another rank ended or fell silent ({' '.join(str(error).split())[:200]}): its own output says why; "
        "the same command resumes from the last checkpoint"
    )


@contextmanager
def lost_rank_told() -> Iterator[None]:
    """Convert PyTorch's exceptions for a lost rank to ``RankLostError``."""
    try:
        yield
    except Exception as error:
        if is_lost_rank(error):
            raise rank_lost(error) from error
        raise


def _environment() -> ClusterEnvironment:
    if by_torchrun():
        return TorchElasticEnvironment()
    if by_variables():
        return LaunchedEnvironment()
    return SrunEnvironment() if by_srun() else LightningEnvironment()


def quiet_libraries() -> None:
    """Silence messages of libraries that do not concern the run; warnings about the run stay."""
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.15: a user cannot change this.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    # Metrics are reduced over the ranks when they are computed.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*sync_dist=True\)`")
    # A process that srun did not start is a run of one rank, which is intended.
    warnings.filterwarnings("ignore", message=r"The `srun` command is available on your system but is not used")
    # A resumed run writes into its existing directory.
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    # The loader uses threads: advice about worker processes does not apply.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
