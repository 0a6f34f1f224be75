"""Compare whole trainings on the GPU, started by the command that users have, with each other."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.rows import Row, Setting
from benchmarks.kill_and_resume import difference, only_run, run_once
from convatlas.config.composition import compose
from convatlas.training.checkpoint_io import read_checkpoint
from pipelines.train import train

SHORT = [
    "tracking=none",
    "data.threads=2",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=4",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=1",
    "trainer.log_every_n_steps=1",
    "run.checkpoint_steps=2",
]
TASKS = {
    "classification, ResNet-20": [
        "model=resnet20_cifar",
        "data=fashion_mnist_sample",
        "data.global_batch_size=32",
        "augment=rand_augment",
        "augment.image_size=28",
    ],
    "segmentation, U-Net": [
        "model=unet_same",
        "model.net.width=8",
        "model.net.levels=3",
        "data=shapes_masks",
        "data.dataset.train=100",
        "data.dataset.test=8",
        "data.global_batch_size=8",
    ],
    "detection, Mask R-CNN": [
        "model=mask_rcnn_resnet18_fpn",
        "model.net.channels=32",
        "model.net.head_width=64",
        "model.net.mask_channels=16",
        "model.net.anchor_sizes=[12,18,26,36,48]",
        "data=shapes_objects",
        "data.dataset.train=40",
        "data.dataset.test=4",
        "data.global_batch_size=4",
        "optimizer.learning_rate=0.01",
    ],
}
"""A short training of each problem type."""
PLAIN = TASKS["classification, ResNet-20"][:3]
NO_BATCH_NORM = ["model=cuda_convnet_cifar", "data=fashion_mnist_sample", "data.global_batch_size=32"]


def repeated(setting: Setting) -> Iterator[Row]:
    """The same seed twice, and a run that is killed and resumed, bit for bit, for each problem type."""
    names = list(TASKS)[:1] if setting.reduced else list(TASKS)
    with ThreadPoolExecutor(len(names)) as pool:
        for rows in pool.map(lambda name: list(_repeated(name, setting)), names):
            yield from rows


def _repeated(name: str, setting: Setting) -> Iterator[Row]:
    settings = [*SHORT, *TASKS[name], f"trainer.accelerator={setting.accelerator}", "trainer.deterministic=true"]
    with tempfile.TemporaryDirectory() as directory:
        first, again, killed = (Path(directory) / root for root in ("first", "again", "killed"))
        try:
            run_once(first, overrides=settings)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            yield Row(f"{name}: deterministic mode", "wrong", note=reason[:300])
            settings[-1] = "trainer.deterministic=warn"
            run_once(first, overrides=settings)
        if not setting.reduced:
            run_once(again, overrides=settings)
            yield Row.equal(f"{name}: the same seed twice", difference(only_run(again), only_run(first)))
        run_once(killed, "naming", 3, overrides=settings)
        run_once(killed, overrides=settings)
        yield Row.equal(f"{name}: killed and resumed", difference(only_run(killed), only_run(first)))


def scaled(setting: Setting) -> Iterator[Row]:
    """Float16 with a gradient scaler: killed and resumed, bit for bit."""
    if setting.device.type != "cuda":
        yield Row("float16 with a scaler, killed and resumed", "not here", note="float16 training needs a GPU")
        return
    settings = [*SHORT, *PLAIN, "trainer.accelerator=gpu", "trainer.deterministic=true", "trainer.precision=16-mixed"]
    with tempfile.TemporaryDirectory() as directory:
        whole, killed = Path(directory) / "whole", Path(directory) / "killed"
        run_once(whole, overrides=settings)
        run_once(killed, "naming", 3, overrides=settings)
        run_once(killed, overrides=settings)
        scale = read_checkpoint(only_run(whole) / "checkpoints" / "last.ckpt")["MixedPrecision"]["scale"]
        found = difference(only_run(killed), only_run(whole))
        yield Row.equal("float16 with a scaler, killed and resumed", found, last_scale=scale)


@dataclass(frozen=True)
class Variant:
    """Another way to compute the same training.

    Attributes:
        name: What is compared.
        overrides: Of both trainings.
        more: Of the variant alone.
        bound: How far the weights may be apart after four steps in float32, relative to how far they have moved.
    """

    name: str
    overrides: Sequence[str]
    more: Sequence[str]
    bound: float


VARIANTS = [
    Variant("beside an average of the weights", PLAIN, ["ema.decay=0.9"], 0.0),
    Variant("gradients of two halves of a batch", NO_BATCH_NORM, ["trainer.accumulate_grad_batches=2"], 1e-3),
    Variant("channels last in memory", PLAIN, ["model.channels_last=true"], 1e-2),
    Variant("compiled", PLAIN, ["model.compile=true"], 1e-2),
]
CONSTANT = ["schedule=constant", "optimizer.learning_rate=0.1", "optimizer.reference_batch_size=null"]
STILL = "optimizer.learning_rate=1e-30"
"""Leaves the weights as they were initialised."""


def variants(setting: Setting) -> Iterator[Row]:
    """Average of weights, accumulation, memory layout and compilation, each against the plain form."""
    common = [*SHORT, *CONSTANT, f"trainer.accelerator={setting.accelerator}", "trainer.max_epochs=1"]
    for variant in VARIANTS[:2] if setting.reduced else VARIANTS:
        halves = 2 if "trainer.accumulate_grad_batches=2" in variant.more else 1
        plain = weights([*common, *variant.overrides])
        other = weights([*common, *variant.overrides, *variant.more, f"trainer.limit_train_batches={4 * halves}"])
        initial = weights([*common, *variant.overrides, STILL])
        yield Row.within(variant.name, variant.bound, of_the_way=_apart(other, plain) / _apart(plain, initial))


def weights(overrides: Sequence[str]) -> dict[str, Tensor]:
    """The weights at the end of a training, float64 on the CPU."""
    with tempfile.TemporaryDirectory() as root:
        train(compose("train", [*overrides, f"run.root={root}"]))
        return _last_weights(Path(root))


def _last_weights(root: Path) -> dict[str, Tensor]:
    checkpoint = read_checkpoint(only_run(root) / "checkpoints" / "last.ckpt")
    state = checkpoint.get("current_model_state", checkpoint["state_dict"])  # beside an average, the weights themselves
    return {name: value.double().cpu() for name, value in state.items() if name.endswith((".weight", ".bias"))}


def _apart(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """The norm of the difference of all weights."""
    return float(torch.stack([(first[name] - value).norm() for name, value in second.items()]).norm())


def ranks(setting: Setting) -> Iterator[Row]:
    """Two ranks on one device over gloo against one rank with the same global batch; NCCL on all GPUs."""
    common = [*SHORT, *CONSTANT, *NO_BATCH_NORM, "trainer.max_epochs=1", f"trainer.accelerator={setting.accelerator}"]
    alone, initial = weights(common), weights([*common, STILL])
    for backend, count in (("gloo", 2), ("nccl", torch.cuda.device_count())):
        check = f"{count} ranks over {backend} against one"
        if backend == "nccl" and count < 2:
            yield Row(
                "ranks over nccl against one", "not here", note="NCCL takes one rank for each GPU; two GPUs needed"
            )
            continue
        with tempfile.TemporaryDirectory() as root:
            launch(
                count, [*common, f"trainer.strategy.backend={backend}", f"run.root={root}"], shared=backend == "gloo"
            )
            found = _last_weights(Path(root))
        yield Row.within(check, 1e-3, of_the_way=_apart(found, alone) / _apart(alone, initial))


def launch(count: int, overrides: Sequence[str], shared: bool) -> None:
    """Train with several ranks: all on the first device, or each on one of its own.

    Raises:
        RuntimeError: A rank failed, with what it said.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "convatlas", "train", *overrides]
    processes = []
    for rank in range(count):
        local, per_node = (0, 1) if shared else (rank, count)
        place = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": per_node}
        meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in (place | meeting).items()}}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    said = [process.communicate()[1].decode() for process in processes]
    if failed := [text for process, text in zip(processes, said, strict=True) if process.returncode]:
        raise RuntimeError(failed[0])
