"""Check everything that `convatlas train` would need, without training.

    convatlas check model=resnet50 data=imagefolder data.root=/data/birds
    convatlas check model=resnet50 data=imagefolder data.root=/data/birds largest_batch=true

Takes the overrides of `train`. Builds data, network, optimizer and trainer, reads one batch and trains one step on it.
`largest_batch=true` also finds the largest batch, a power of two, that fits into the memory of a GPU.
"""

import math
import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.utilities import move_data_to_device

from convatlas.cli import execute
from convatlas.config.arguments import expanded
from convatlas.config.composition import plain
from convatlas.data.module import ImageDataModule
from convatlas.data.sources.scan import passed_over_text
from convatlas.errors import UserError
from convatlas.tasks.base import Task
from convatlas.tasks.optimization import ScheduleContext
from convatlas.training.gpu import fits, gpu_settings, largest_power_of_two, peak_memory, resized, set_tf32
from convatlas.training.plan import TYPES as RUN_TYPES
from convatlas.training.plan import plan_run, run_on_other_data
from convatlas.training.trainer import build_trainer, quiet_libraries, world_size
from convatlas.utils.console import print_fields

TYPES = {**RUN_TYPES, "largest_batch": bool}
KEPT_CHECKPOINTS = 4
"""best, last, the previous one and the one being written."""
MIB = 2**20
FOR_PROGRAMS = ("run_id", "data_fingerprint", "torch_threads")
"""Entries that only ``format=json`` shows."""


def check(config: DictConfig) -> dict[str, Any]:
    """Check whether a run can start.

    Args:
        config: Composed from ``conf/check.yaml``, which is ``conf/train.yaml``.

    Returns:
        Lines of text by name, and for programs ``run_id``, ``data_fingerprint`` and ``torch_threads``.

    Raises:
        UserError: The first thing that would stop the run; ``largest_batch`` without a GPU.
    """
    quiet_libraries()
    set_tf32(config.tf32)
    pl.seed_everything(config.seed, verbose=False)
    run, data = plan_run(config)
    found: dict[str, Any] = {
        "run_id": run.run_id,
        "data_fingerprint": data.fingerprint,
        "torch_threads": torch.get_num_threads(),
    }
    ranks = world_size(config.trainer)
    data.check_batch(ranks, config.trainer.accumulate_grad_batches)
    found["class_list"] = f"{len(data.class_list.names)} classes, hash {data.class_list.hash[:12]}"
    found["data"] = ", ".join(f"{data.num_samples(split):,} {split}" for split in ("train", "val", "test"))
    if data.passed_over:
        found["files"] = passed_over_text(data.passed_over)

    state = run.summary.get("state", "new")
    found["run"] = f"{run.path} ({state})"
    if other := run_on_other_data(config, run, data):
        found["run"] += f"; its data are not those of {other}"
    task: Task = instantiate(
        config.model, optimizer=instantiate(config.optimizer), schedule=instantiate(config.schedule)
    )
    task.check_data(data)
    found["labels"] = "; ".join(data.check_labels()) or "every class occurs in train, val and test"
    if task.loaded:
        found["weights"] = ", ".join(map(str, task.loaded))
    found["disk"] = _disk(Path(config.run.root), _checkpoint_bytes(task, config))
    return found | _try_step(config, task, data, ranks)


def _try_step(config: DictConfig, task: Task, data: ImageDataModule, ranks: int) -> dict[str, str]:
    """Train one step, and measure its memory."""
    trainer = build_trainer(config.trainer, logger=False, enable_checkpointing=False)
    found = {"accelerator": f"{trainer.accelerator.__class__.__name__}, {ranks} rank{'s' * (ranks > 1)}"}
    device = trainer.strategy.root_device
    if device.type == "cuda":
        found["settings"] = gpu_settings(expanded(plain(config)), device)
    elif config.largest_batch:
        raise UserError("largest_batch=true: expected a GPU; a process that needs more memory than a CPU has is killed")
    batch = next(iter(data.train_dataloader()))
    batch = resized(batch, data.global_batch_size // ranks // config.trainer.accumulate_grad_batches)
    step = _Step(config, task, data, trainer)
    if device.type == "cuda":
        peak = peak_memory(lambda: step(batch), device)
        whole = torch.cuda.get_device_properties(device).total_memory
        found["memory"] = f"{peak // MIB:,} of {whole // MIB:,} MiB at most in a step"
    else:
        step(batch)
        found["memory"] = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024:,} MiB at most in this process"
    found["batch"] = f"{tuple(batch.images.shape)} forward and backward, loss {step.loss:.4f}"
    if config.largest_batch:
        size = largest_power_of_two(lambda size: fits(lambda: step(resized(batch, size))), data.num_samples("train"))
        found["largest_batch"] = f"{size:,} images on each GPU, the largest power of two that fits"
    return found


class _Step:
    """Trains one step of the task on a batch of the loader, with the precision of the trainer."""

    def __init__(self, config: DictConfig, task: Task, data: ImageDataModule, trainer: pl.Trainer) -> None:
        self.task = task
        self.data = data
        self.device = trainer.strategy.root_device
        self.precision = trainer.precision_plugin
        self.loss = 0.0
        task.to(self.device).train()
        self.optimizer = instantiate(config.optimizer).build(task.net.parameters(), data.global_batch_size)
        instantiate(config.schedule)(self.optimizer, ScheduleContext(steps=1000, steps_per_epoch=100, mode=task.mode))

    def __call__(self, batch: Any) -> None:
        batch = self.data.on_after_batch_transfer(move_data_to_device(batch, self.device), 0)
        self.optimizer.zero_grad()
        with self.precision.forward_context():
            loss = self.task.loss(self.task.output(batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            raise UserError(
                f"model={self.task.name}: the loss of the first batch is {self.loss}, expected a finite number"
            )
        self.optimizer.step()


def _checkpoint_bytes(task: Task, config: DictConfig) -> int:
    """Size of the weights, their average if it is kept, and the optimizer's state (SGD: one, Adam: two per weight)."""
    weights: int = sum(tensor.numel() * tensor.element_size() for tensor in task.net.state_dict().values())
    copies = 2 if config.optimizer.algorithm.get("momentum") is not None else 3
    return weights * (copies + (config.ema.decay is not None))


def _disk(root: Path, checkpoint_bytes: int) -> str:
    existing = next(path for path in [root, *root.absolute().parents] if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"run.root={root}: {existing} is not a folder that can be written")
    free = shutil.disk_usage(existing).free
    needed = KEPT_CHECKPOINTS * checkpoint_bytes
    if free < needed:
        raise UserError(
            f"run.root={root}: {free // MIB:,} MiB free, checkpoints need about {needed // MIB:,} MiB; "
            "choose a run.root on another disk"
        )
    return f"{free // MIB:,} MiB free, checkpoints need about {max(1, needed // MIB):,} MiB"


def show(result: Mapping[str, Any]) -> None:
    """Print what was found."""
    lines = {name: text for name, text in result.items() if name not in FOR_PROGRAMS}
    print_fields({**lines, "result": "convatlas train would run"})


if __name__ == "__main__":
    execute(check, show, TYPES, several_ranks=True)
