"""Time training on the GPU against a bare loop and other trainers, in one process on the same batch."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, cast

import timm
import torch
import torchvision
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.utilities.types import TRAIN_DATALOADERS
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.cases import CLASSES, build_batch, build_task, moved
from benchmarks.gpu.rows import Row, Setting
from benchmarks.paired import synchronise
from convatlas.config.composition import compose
from convatlas.tasks.base import Task
from convatlas.tasks.optimization import OptimizerConfig
from convatlas.training.callbacks.ddp_buckets import DeterministicBuckets
from convatlas.training.callbacks.progress import Throughput
from convatlas.training.callbacks.resume_state import ResumeState
from convatlas.training.trainer import build_trainer

WARM_UP = 10
"""Steps before the first that is timed; the first ones choose kernels and compile."""
SGD: dict[str, Any] = {"lr": 0.001, "momentum": 0.9, "weight_decay": 1e-4}


@dataclass(frozen=True)
class Load:
    """A network and the batch that it is timed with.

    Attributes:
        model: Its configuration.
        images: Images in a batch.
        image_size: Their height and width in pixels.
        overrides: Further ones.
    """

    model: str
    images: int
    image_size: int
    overrides: Sequence[str] = ()


RESNET = Load("resnet50_v15", 256, 224)
NETWORKS = [
    Load("vgg16", 128, 224),
    Load("googlenet_bn", 256, 224),
    Load("deeplabv3_resnet50", 16, 513),
    Load("unet_same", 16, 256),
    Load("faster_rcnn_resnet50_fpn", 8, 800),
    Load("mask_rcnn_resnet50_fpn", 8, 800),
]
REDUCED = Load("resnet20_cifar", 16, 32)
SETTINGS = ["model.channels_last=true", "trainer.precision=bf16-mixed", "tracking=none"]


@dataclass(frozen=True)
class Repeated:
    """A loader of one batch, again and again."""

    batch: Any
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.batch, self.steps)


class ReadyData(LightningDataModule):
    """The same batch at every step, on the device already."""

    def __init__(self, batch: Any, steps: int) -> None:
        super().__init__()
        self.loader = Repeated(batch, steps)
        self.global_batch_size = len(batch.images)

    def train_dataloader(self) -> TRAIN_DATALOADERS:
        """That batch again and again."""
        return self.loader


class Clock(Callback):
    """Measures the seconds of the steps after the first ``WARM_UP``."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.start = self.seconds = 0.0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Start behind the warm-up, stop at the end."""
        if trainer.global_step in (WARM_UP, WARM_UP + self.steps):
            synchronise(pl_module.device)
            self.seconds, self.start = time.perf_counter() - self.start, time.perf_counter()


def our_rate(load: Load, batch: Any, steps: int, setting: Setting, overrides: Sequence[str] = ()) -> float:
    """Images per second of our trainer."""
    clock = Clock(steps)
    fit(load, batch, WARM_UP + steps, setting, overrides, clock)
    return steps * load.images / clock.seconds


def fit(load: Load, batch: Any, steps: int, setting: Setting, overrides: Sequence[str], *callbacks: Callback) -> None:
    """Train some steps with our trainer and the callbacks that act at each step."""
    config = compose("train", [*SETTINGS, *overrides, f"trainer.accelerator={setting.accelerator}"])
    task = build_task(load.model, load.image_size, [*SETTINGS, *overrides, *load.overrides])
    config.trainer.max_epochs = 1
    trainer = build_trainer(
        config.trainer,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        limit_val_batches=0,
        callbacks=[DeterministicBuckets(), ResumeState(), Throughput(), *callbacks],
    )
    trainer.fit(task, datamodule=ReadyData(batch, steps))


def timed(step: Callable[[], object], images: int, steps: int, device: torch.device) -> float:
    """Images per second of a step."""
    for _ in range(WARM_UP):
        step()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    return steps * images / (time.perf_counter() - start)


def bare_step(task: Task, batch: Any, setting: Setting, compiled: bool = False) -> Callable[[], object]:
    """A training step without any trainer around it: the same network, loss and optimizer."""
    task.to(setting.device).train()
    optimizer = cast(OptimizerConfig, task.optimizer_config).build(task.net.parameters(), len(batch.images))
    if compiled:
        task.net.compile()

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(setting.device.type, torch.bfloat16):
            loss = task.loss(task.output(batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def timm_step(batch: Any, setting: Setting) -> Callable[[], object]:
    """The step of timm's training script: its ResNet-50, its optimizer, no figures."""
    net = timm.create_model("resnet50", num_classes=CLASSES).to(setting.device, memory_format=torch.channels_last)
    return _peer_step(net, timm.optim.create_optimizer_v2(net, "momentum", **SGD), batch, setting, figures=False)


def torchvision_step(batch: Any, setting: Setting) -> Callable[[], object]:
    """The step of torchvision's reference script: loss and accuracies are read at each step."""
    net = torchvision.models.resnet50(num_classes=CLASSES).to(setting.device, memory_format=torch.channels_last)
    return _peer_step(net, torch.optim.SGD(net.parameters(), **SGD), batch, setting, figures=True)


def _peer_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, batch: Any, setting: Setting, figures: bool
) -> Callable[[], object]:
    net.train()

    def step() -> None:
        with torch.autocast(setting.device.type, torch.bfloat16):
            output: Tensor = net(batch.images)
            loss = F.cross_entropy(output, batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if figures:
            best = output.detach().topk(5, dim=1).indices == batch.labels[:, None]
            float(best[:, 0].sum()), float(best.sum()), loss.item()

    return step


def resnet50(setting: Setting) -> Iterator[Row]:
    """ResNet-50 in bf16 with channels last: ours, a bare loop, timm's step and torchvision's; and compiled."""
    load = REDUCED if setting.reduced else RESNET
    yield from _against_bare(load, setting, pairs=1 if setting.reduced else 3)
    if setting.reduced:
        yield Row("ResNet-50 against timm and torchvision, compiled", "not here", note="takes a GPU")
        return
    batch = ready_batch(load, setting)
    steps = 60
    ours = our_rate(load, batch, steps, setting)
    for name, build in (("timm", timm_step), ("torchvision", torchvision_step)):
        theirs = timed(build(batch, setting), load.images, steps, setting.device)
        yield Row(f"{load.model}: against {name}'s step", "measured", {"ours_over_theirs": ours / theirs, name: theirs})
        forget()
    compiled = our_rate(load, batch, steps, setting, ["model.compile=true"])
    task = build_task(load.model, load.image_size, SETTINGS)
    bare = timed(bare_step(task, batch, setting, compiled=True), load.images, steps, setting.device)
    yield Row(
        f"{load.model}: compiled",
        "measured",
        {"images_per_second": compiled, "over_eager": compiled / ours, "over_bare_compiled": compiled / bare},
        "goal: at least 0.99 of the bare loop",
    )


def networks(setting: Setting) -> Iterator[Row]:
    """The other networks in bf16, ours against a bare loop."""
    for load in [REDUCED] if setting.reduced else NETWORKS:
        yield from _against_bare(load, setting, pairs=1 if setting.reduced else 2)


def _against_bare(load: Load, setting: Setting, pairs: int) -> Iterator[Row]:
    steps = 3 if setting.reduced else 40
    batch = ready_batch(load, setting)
    ratios, rates = [], []
    memory = 0.0
    for _ in range(pairs):
        rates.append(our_rate(load, batch, steps, setting, load.overrides))
        if setting.device.type == "cuda":
            memory = torch.cuda.max_memory_allocated() / 2**30
        forget()
        task = build_task(load.model, load.image_size, [*SETTINGS, *load.overrides])
        ratios.append(rates[-1] / timed(bare_step(task, batch, setting), load.images, steps, setting.device))
        del task
        forget()
    rate = statistics.median(rates)
    values: dict[str, float | int | str] = {"images_per_second": rate, "ours_over_bare": statistics.median(ratios)}
    if setting.device.type == "cuda":
        share = rate / load.images * operations(load, batch, setting) / matrix_rate(setting)
        values |= {"peak_gib": memory, "share_of_matrix_rate": share}
    note = f"{load.images} images of {load.image_size} pixels, {pairs} pairs; goal: at least 0.99 of the bare loop"
    yield Row(f"{load.model}: against a bare loop", "measured", values, note)


def ready_batch(load: Load, setting: Setting) -> Any:
    """A batch on the device, its images with channels last in memory."""
    problem = build_task(load.model, load.image_size, load.overrides).task_type
    batch = moved(build_batch(problem, load.images, load.image_size), setting.device)
    return batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))


def operations(load: Load, batch: Any, setting: Setting) -> float:
    """Floating-point operations of a training step in matrix products and convolutions, a multiplication being one."""
    step = bare_step(build_task(load.model, load.image_size, [*SETTINGS, *load.overrides]), batch, setting)
    with FlopCounterMode(display=False) as counter:
        step()
    forget()
    return float(counter.get_total_flops())


def matrix_rate(setting: Setting, side: int = 8192, repeats: int = 20) -> float:
    """Floating-point operations per second of a product of two bf16 matrices, as this card computes it."""
    first, second = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 * timed(lambda: first @ second, 1, repeats, setting.device)


def forget() -> None:
    """Give memory back before the next network."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
