"""Two networks timed in pairs, so that what else the machine does meets both."""

import gc
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

WARM_UP = 3
"""Steps of each before the first pair."""


def step_time(net: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of one forward and backward pass; gradients stay allocated from step to step.

    Args:
        net: The network.
        loss: Computes its loss, a scalar.
        device: Where; on a CPU the process's own time is taken.
    """
    net.zero_grad(set_to_none=False)
    gc.collect()
    torch.manual_seed(0)  # the same random numbers for both
    synchronise(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    loss().backward()  # type: ignore[no-untyped-call]
    synchronise(device)
    return clock() - start


def synchronise(device: torch.device) -> None:
    """Wait for a GPU to finish; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def paired_ratios(mine: Callable[[], float], other: Callable[[], float], pairs: int) -> list[float]:
    """Our time over the other's, of each pair: ours, theirs, theirs, ours."""
    for _ in range(WARM_UP):
        mine(), other()
    found = []
    for _ in range(pairs):
        first, second, third, fourth = (step() for step in (mine, other, other, mine))
        found.append((first + fourth) / (second + third))
    return found


def described(device: torch.device, threads: int, batch: int, side: int, pairs: int) -> str:
    """The line that says what was measured where."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"
    return f"{name}, {threads} threads, torch {torch.__version__}; {batch} images of {side} pixels, {pairs} pairs"
