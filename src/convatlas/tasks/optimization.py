"""Optimizer and learning-rate schedules, as functions of the global batch size and the number of steps."""

import math
from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from convatlas.errors import UserError

Schedule = Callable[[Optimizer, int], LRScheduler]
"""Makes the schedule of an optimizer for a number of optimizer steps; stepped once per optimizer step."""


class OptimizerRecipe:
    """An optimizer and the learning rate that goes with a batch size.

    Args:
        algorithm: Makes the optimizer from parameters and ``lr``: a partial of a ``torch.optim`` class.
        learning_rate: The peak learning rate at ``reference_batch_size``.
        reference_batch_size: The learning rate is scaled linearly with the global batch size from here
            (Goyal et al. 2017, section 2.1); None keeps it for every batch size.
    """

    def __init__(
        self, *, algorithm: Callable[..., Optimizer], learning_rate: float, reference_batch_size: int | None = None
    ) -> None:
        self.algorithm = algorithm
        self.learning_rate = learning_rate
        self.reference_batch_size = reference_batch_size

    def scaled_learning_rate(self, global_batch_size: int) -> float:
        """The learning rate for a global batch size."""
        if self.reference_batch_size is None:
            return self.learning_rate
        return self.learning_rate * global_batch_size / self.reference_batch_size

    def arithmetic(self, global_batch_size: int) -> str:
        """The scaling in words, such as ``0.1 = 0.4 × 64/256``."""
        scaled = f"{self.scaled_learning_rate(global_batch_size):g}"
        if self.reference_batch_size is None:
            return scaled
        return f"{scaled} = {self.learning_rate:g} × {global_batch_size}/{self.reference_batch_size}"

    def build(self, parameters: Iterable[nn.Parameter], global_batch_size: int) -> Optimizer:
        """Make the optimizer of these parameters.

        Raises:
            UserError: The algorithm refuses a setting.
        """
        try:
            return self.algorithm(parameters, lr=self.scaled_learning_rate(global_batch_size))
        except ValueError as error:
            raise UserError(f"optimizer: {error}") from error


def constant(optimizer: Optimizer, total_steps: int, *, warmup_fraction: float = 0.0) -> LRScheduler:
    """The same learning rate throughout, after a linear warm-up over ``warmup_fraction`` of the steps."""
    return _multiplied(optimizer, total_steps, warmup_fraction, lambda progress: 1.0)


def cosine(optimizer: Optimizer, total_steps: int, *, warmup_fraction: float = 0.0) -> LRScheduler:
    """Half a cosine down to zero after a linear warm-up (Loshchilov and Hutter 2017, equation 5)."""
    return _multiplied(
        optimizer, total_steps, warmup_fraction, lambda progress: 0.5 * (1 + math.cos(math.pi * progress))
    )


def poly(optimizer: Optimizer, total_steps: int, *, power: float = 0.9, warmup_fraction: float = 0.0) -> LRScheduler:
    """``(1 - step / steps) ** power`` after a linear warm-up (DeepLab v2, section 4.1.2: 0.9)."""
    return _multiplied(optimizer, total_steps, warmup_fraction, lambda progress: max(0.0, 1 - progress) ** power)


def step(
    optimizer: Optimizer,
    total_steps: int,
    *,
    milestones: list[float],
    gamma: float = 0.1,
    warmup_fraction: float = 0.0,
) -> LRScheduler:
    """Multiply the rate by ``gamma`` at each milestone, a fraction of the steps after the warm-up.

    ResNet on CIFAR (He et al. 2016, section 4.2) divides by 10 at 32k and 48k of 64k steps: ``[0.5, 0.75]``.
    """
    return _multiplied(
        optimizer,
        total_steps,
        warmup_fraction,
        lambda progress: gamma ** sum(progress >= milestone for milestone in milestones),
    )


def one_cycle(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_fraction: float = 0.3,
    initial_division: float = 25.0,
    final_division: float = 1e4,
) -> LRScheduler:
    """Up to the learning rate and down again along cosines, the momentum fixed (Smith and Topin 2018).

    Starts at the learning rate divided by ``initial_division`` and ends at that divided by ``final_division``.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=total_steps,
        pct_start=warmup_fraction,
        cycle_momentum=False,
        div_factor=initial_division,
        final_div_factor=final_division,
    )


def _multiplied(
    optimizer: Optimizer, total_steps: int, warmup_fraction: float, after_warmup: Callable[[float], float]
) -> LRScheduler:
    warmup_steps = round(warmup_fraction * total_steps)

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return after_warmup((step - warmup_steps) / max(1, total_steps - warmup_steps))

    return LambdaLR(optimizer, multiplier)
