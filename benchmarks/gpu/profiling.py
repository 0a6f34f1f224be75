"""Profile a training step: kernels, transfers, waits of the host, the optimizer, and what ranks ask each other."""

import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import distributed
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.cases import build_task
from benchmarks.gpu.rows import Row, Setting, Value
from benchmarks.gpu.speed import REDUCED, RESNET, SETTINGS, SGD, WARM_UP, bare_step, fit, forget, ready_batch, timed
from benchmarks.paired import synchronise
from convatlas.training.agreement import RankVote

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
QUESTIONS = 1000


class Profiled(Callback):
    """Times the host between the steps of a training, and then profiles as many steps.

    Attributes:
        steps: How many are timed after the first ``WARM_UP``, and how many are profiled after those.
        between: Seconds from the end of a step to the start of the next, over the timed steps.
    """

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps = steps
        self.profile = profiler(device)
        self.between = 0.0
        self._ended: float | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to profile where it is time."""
        if WARM_UP <= batch_idx < WARM_UP + self.steps and self._ended is not None:
            self.between += time.perf_counter() - self._ended
        if batch_idx == WARM_UP + self.steps:
            synchronise(pl_module.device)
            self.profile.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the profile where it is time."""
        self._ended = time.perf_counter()
        if batch_idx + 1 == WARM_UP + 2 * self.steps:
            synchronise(pl_module.device)
            self.profile.stop()


def profiler(device: torch.device) -> profile:
    """A profiler of the host and, where there is one, the GPU."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    return profile(activities=activities)


def where_time_goes(setting: Setting) -> Iterator[Row]:
    """Profile the step of a bare loop and our trainer's; time the optimizer and the question that ranks ask."""
    load = REDUCED if setting.reduced else RESNET
    steps = 2 if setting.reduced else 10
    batch = ready_batch(load, setting)
    task = build_task(load.model, load.image_size, SETTINGS)
    step = bare_step(task, batch, setting)
    for _ in range(WARM_UP):
        step()
    synchronise(setting.device)
    with profiler(setting.device) as bare:
        for _ in range(steps):
            step()
        synchronise(setting.device)
    yield Row(f"{load.model}: a step of the bare loop", "measured", _figures(bare, steps), "profiled, which costs time")
    parameters = [parameter for parameter in task.net.parameters() if parameter.grad is not None]
    yield from _optimizer_rows(load.model, parameters, setting)
    del task, step, parameters
    forget()

    ours = Profiled(steps, setting.device)
    fit(load, batch, WARM_UP + 2 * steps, setting, (), ours)
    figures = _figures(ours.profile, steps) | {"host_ms_between_steps": 1e3 * ours.between / steps}
    yield Row(f"{load.model}: a step of our trainer", "measured", figures, "profiled, which costs time")
    yield Row("two ranks ask each other whether to save", "measured", {"ms": 1e3 * question_seconds()})


def _figures(profiled: profile, steps: int) -> dict[str, Value]:
    """Of one step: kernels and their time, copies to the GPU, waits of the host, operators that it calls."""
    events = list(profiled.events() or [])  # type: ignore[no-untyped-call]
    on_device = [event for event in events if event.device_type.name == "CUDA"]
    copies = [event for event in on_device if event.name.startswith("Memcpy")]
    kernels = [event for event in on_device if not event.name.startswith("Mem")]
    called = [event for event in events if event.device_type.name == "CPU" and event.name.startswith("aten::")]
    return {
        "operators": len(called) / steps,
        "kernels": len(kernels) / steps,
        "kernels_below_10_us": sum(event.device_time_total < 10 for event in kernels) / steps,
        "kernel_ms": sum(event.device_time_total for event in kernels) / steps / 1e3,
        "copy_ms": sum(event.device_time_total for event in copies) / steps / 1e3,
        "waits_of_the_host": sum(event.name in WAITS for event in events) / steps,
        "values_read": sum(event.name == "aten::_local_scalar_dense" for event in events) / steps,
    }


def _optimizer_rows(model: str, parameters: list[torch.nn.Parameter], setting: Setting) -> Iterator[Row]:
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    forms = {"foreach": {"foreach": True}, "fused": {"fused": True}, "one by one": {"foreach": False}}
    for name, arguments in forms.items():
        optimizer = torch.optim.SGD(parameters, **SGD, **arguments)
        rate = timed(optimizer.step, 1, 5 if setting.reduced else 50, setting.device)
        yield Row(f"{model}: optimizer step, {name}", "measured", {"ms": 1e3 / rate})


def question_seconds() -> float:
    """Seconds that a rank of two spends on a question of ``RankVote`` when it asks without a step in between."""
    with tempfile.TemporaryDirectory() as folder:
        other = multiprocessing.get_context("spawn").Process(target=_ask, args=(1, folder))
        other.start()
        seconds = _ask(0, folder)
        other.join()
    return seconds


def _ask(rank: int, folder: str) -> float:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    agreement = RankVote()
    strategy = SimpleNamespace(_timeout=timedelta(minutes=1))
    agreement.open(cast(Trainer, SimpleNamespace(world_size=2, strategy=strategy)))
    agreement.reached(False)
    start = time.perf_counter()
    for _ in range(QUESTIONS):
        agreement.reached(False)
    agreement.forget()
    seconds = (time.perf_counter() - start) / QUESTIONS
    distributed.destroy_process_group()
    return seconds
