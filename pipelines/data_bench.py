"""Measure the input pipeline of a training: images/s, processor time by stage, and the speed of the model.

    convatlas data bench data=imagefolder data.root=/data/birds model=resnet50 data.threads=8

Takes the overrides of `train` and uses the loader of the training, on one rank.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pydantic import NonNegativeInt, PositiveInt
from pytorch_lightning.utilities import move_data_to_device

from convatlas.cli import execute
from convatlas.config.composition import fill_num_classes
from convatlas.data.classification.module import ClassificationDataModule, build_classification_data
from convatlas.data.tools.bench import loader_speed, stage_times
from convatlas.tasks.classification.task import ClassificationTask
from convatlas.training.trainer import build_trainer, quiet_libraries
from convatlas.utils.console import print_fields


def data_bench(config: DictConfig) -> dict[str, Any]:
    """Load batches as training does, then train on a batch in memory.

    Args:
        config: Composed from ``conf/data_bench.yaml``.

    Returns:
        ``images_per_second`` and ``cpu_ms_per_image`` of the loader, ``images``, ``threads``; ``stages``, the processor
        time of each stage in milliseconds per image, on a single thread; ``model_images_per_second`` and its
        ``device``, None if ``model_steps=0``.

    Raises:
        UserError: The data or the model cannot be built.
    """
    quiet_libraries()
    pl.seed_everything(config.seed, verbose=False)
    data = build_classification_data(config.data)
    data.check_batch(1, config.trainer.accumulate_grad_batches)
    speed = loader_speed(data.train_dataloader(), config.batches)
    images = min(config.stage_images, data.num_samples("train"))
    stages = stage_times(data, images)
    data.threads, threads = 1, data.threads  # without the cost of threads for each other
    alone = loader_speed(data.train_dataloader(), -(-images // data.global_batch_size))
    stages["collate"] = max(0.0, alone.cpu_ms_per_image - sum(stages.values()))
    model, device = _model_speed(config, data) if config.model_steps else (None, None)
    return {
        **asdict(speed),
        "stages": stages,
        "threads": threads,
        "model_images_per_second": model,
        "device": device,
    }


def _model_speed(config: DictConfig, data: ClassificationDataModule) -> tuple[float, str]:
    """Images per second of training on a batch in memory, of the size of one accumulation step, and the device."""
    fill_num_classes(config, len(data.class_list.names))
    data.global_batch_size //= config.trainer.accumulate_grad_batches
    recipe = instantiate(config.optimizer)
    task: ClassificationTask = instantiate(config.model, optimizer=recipe)  # compiled if the training is
    trainer = build_trainer(config.trainer, logger=False, enable_checkpointing=False)
    device = trainer.strategy.root_device
    batch = data.on_after_batch_transfer(move_data_to_device(next(iter(data.train_dataloader())), device), 0)
    task.to(device).train()
    optimizer = recipe.build(task.net.parameters(), data.global_batch_size)
    seconds = math.inf
    for _ in range(1 + config.model_steps):  # the first step warms up; the fastest of the others counts
        start = time.perf_counter()
        with trainer.precision_plugin.forward_context():
            loss = task.loss(task.output(batch), batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = min(seconds, time.perf_counter() - start)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return len(batch.labels) / seconds, name


def show(result: Mapping[str, Any]) -> None:
    """Print the figures and their meaning."""
    stages = {name: f"{value:.3f} ms" for name, value in result["stages"].items()}
    delivered, needed = result["images_per_second"], result["model_images_per_second"]
    fields = {
        "loader": f"{delivered:,.0f} images/s with {result['threads']} threads ({result['images']:,} images)",
        "cpu": f"{result['cpu_ms_per_image']:.3f} ms an image",
        "stages": ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in stages.items())
        + " (one thread alone)",
    }
    if needed is not None:
        fields["model"] = f"{needed:,.0f} images/s on {result['device']}, training on a batch that is ready"
        cores = needed * result["cpu_ms_per_image"] / 1000
        fields["verdict"] = (
            f"the loader is {delivered / needed:,.1f} times as fast as the model, which needs {cores:.2g} cores of it"
            if delivered >= needed
            else f"the model waits for data, it needs {cores:.1f} cores of loading: raise data.threads where there are "
            "as many, or store smaller images (convatlas data prepare)"
        )
    print_fields(fields)


if __name__ == "__main__":
    types = {"seed": NonNegativeInt, "batches": PositiveInt, "stage_images": PositiveInt, "model_steps": NonNegativeInt}
    execute(data_bench, show, types)
