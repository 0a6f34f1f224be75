"""Optimizer and learning-rate schedules, as functions of the global batch size and the length of the training."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from convatlas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ScheduleContext:
    """Training length and metric direction, passed to learning-rate schedules.

    Args:
        steps: Optimizer steps of all epochs.
        steps_per_epoch: Optimizer steps of one epoch.
        mode: Whether more or less of the monitored metric is better.
    """

    steps: int
    steps_per_epoch: int
    mode: Literal["min", "max"] = "max"


Schedule = Callable[[Optimizer, ScheduleContext], LRScheduler]
"""Builds the schedule of an optimizer. ``ReduceLROnPlateau`` steps after each validation, others after each step."""


class OptimizerConfig:
    """An optimizer and its learning rate as a function of the batch size.

    Args:
        algorithm: Builds the optimizer from parameters and ``lr``, such as a partial of a ``torch.optim`` class.
        learning_rate: The peak learning rate at ``reference_batch_size``.
        reference_batch_size: Batch size of ``learning_rate``, which is scaled linearly with the global batch size
            (Goyal et al. 2017, section 2.1). None: the learning rate is the same for every batch size.
        decay_norms_and_biases: Whether weight decay also applies to parameters of one dimension: biases, and scales and
            shifts of normalisation. He et al. 2019 ("Bag of Tricks", section 3.1) exclude them.
    """

    def __init__(
        self,
        *,
        algorithm: Callable[..., Optimizer],
        learning_rate: PositiveFloat,
        reference_batch_size: int | None = None,
        decay_norms_and_biases: bool = True,
    ) -> None:
        self.algorithm = algorithm
        self.learning_rate = learning_rate
        self.reference_batch_size = reference_batch_size
        self.decay_norms_and_biases = decay_norms_and_biases

    def scaled_learning_rate(self, global_batch_size: int) -> float:
        """Return the learning rate for a global batch size."""
        if self.reference_batch_size is None:
            return float(self.learning_rate)
        return self.learning_rate * global_batch_size / self.reference_batch_size

    def arithmetic(self, global_batch_size: int) -> str:
        """Return the computation of the learning rate as text, such as ``0.1 = 0.4 × 64/256``."""
        scaled = f"{self.scaled_learning_rate(global_batch_size):g}"
        if self.reference_batch_size is None:
            return scaled
        return f"{scaled} = {self.learning_rate:g} × {global_batch_size}/{self.reference_batch_size}"

    def build(self, parameters: Iterable[nn.Parameter], global_batch_size: int) -> Optimizer:
        """Build the optimizer of these parameters.

        Raises:
            UserError: The algorithm refuses a setting.
        """
        groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        if not self.decay_norms_and_biases:
            flat = [parameter for parameter in groups[0]["params"] if parameter.ndim <= 1]
            groups[0]["params"] = [parameter for parameter in groups[0]["params"] if parameter.ndim > 1]
            groups.append({"params": flat, "weight_decay": 0.0})
        try:
            return self.algorithm(groups, lr=self.scaled_learning_rate(global_batch_size))
        except ValueError as error:
            raise UserError(f"optimizer: {error}") from error


def constant(optimizer: Optimizer, context: ScheduleContext, *, warmup_epochs: NonNegativeFloat = 0.0) -> LRScheduler:
    """Keep the learning rate constant after a linear warm-up."""
    return _multiplied(optimizer, context, warmup_epochs, lambda progress: 1.0)


def cosine(optimizer: Optimizer, context: ScheduleContext, *, warmup_epochs: NonNegativeFloat = 0.0) -> LRScheduler:
    """Decrease the rate to zero along half a cosine after a linear warm-up (Loshchilov and Hutter 2017, equation 5)."""
    return _multiplied(optimizer, context, warmup_epochs, lambda progress: 0.5 * (1 + math.cos(math.pi * progress)))


def poly(
    optimizer: Optimizer, context: ScheduleContext, *, power: float = 0.9, warmup_epochs: NonNegativeFloat = 0.0
) -> LRScheduler:
    """Multiply the rate by ``(1 - step / steps) ** power`` after a linear warm-up (DeepLab v2, section 4.1.2: 0.9)."""
    return _multiplied(optimizer, context, warmup_epochs, lambda progress: max(0.0, 1 - progress) ** power)


def step(
    optimizer: Optimizer,
    context: ScheduleContext,
    *,
    milestones: list[float],
    gamma: float = 0.1,
    warmup_epochs: NonNegativeFloat = 0.0,
) -> LRScheduler:
    """Multiply the rate by ``gamma`` at each milestone, a fraction of the steps after the warm-up.

    ResNet on CIFAR (He et al. 2016, section 4.2) divides by 10 at 32k and 48k of 64k steps: ``[0.5, 0.75]``.
    """
    return _multiplied(
        optimizer,
        context,
        warmup_epochs,
        lambda progress: gamma ** sum(progress >= milestone for milestone in milestones),
    )


def exponential(
    optimizer: Optimizer, context: ScheduleContext, *, gamma: float, every_epochs: PositiveInt = 1
) -> LRScheduler:
    """Multiply the rate by ``gamma`` after every ``every_epochs`` epochs (GoogLeNet, section 6: 0.96 and 8)."""
    return LambdaLR(optimizer, lambda step: gamma ** (step // (every_epochs * context.steps_per_epoch)))


def plateau(
    optimizer: Optimizer,
    context: ScheduleContext,
    *,
    factor: float = 0.1,
    patience: PositiveInt = 5,
    threshold: NonNegativeFloat = 0.0,
    max_reductions: PositiveInt = 3,
) -> ReduceLROnPlateau:
    """Multiply the rate by ``factor`` when the monitored metric stops improving.

    The authors of AlexNet (section 5), VGG (section 3.1) and ResNet (section 3.4) did so manually, those of AlexNet and
    VGG three times.

    Args:
        optimizer: The optimizer.
        context: The direction of the metric.
        factor: Factor of each reduction, below 1.
        patience: Number of successive validations without a new best value after which the rate is reduced.
        threshold: Minimum improvement of a new best value, in the unit of the metric.
        max_reductions: Maximum number of reductions.

    Raises:
        UserError: ``factor`` is not between 0 and 1.
    """
    if not 0 < factor < 1:
        raise UserError(f"schedule.factor={factor}: expected a number between 0 and 1")
    return ReduceLROnPlateau(
        optimizer,
        mode=context.mode,
        factor=factor,
        patience=patience - 1,  # torch counts the validations that it tolerates
        threshold=threshold,
        threshold_mode="abs",
        min_lr=[group["lr"] * factor**max_reductions for group in optimizer.param_groups],
    )


def one_cycle(
    optimizer: Optimizer,
    context: ScheduleContext,
    *,
    warmup_fraction: Annotated[float, Field(ge=0, le=1)] = 0.3,
    initial_division: PositiveFloat = 25.0,
    final_division: PositiveFloat = 1e4,
) -> LRScheduler:
    """Increase the rate to the learning rate and decrease it again along cosines (Smith and Topin 2018).

    The momentum is constant. The rate starts at the learning rate divided by ``initial_division``. It ends at this
    initial rate divided by ``final_division``. The increase takes the share ``warmup_fraction`` of all steps.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=context.steps,
        pct_start=warmup_fraction,
        cycle_momentum=False,
        div_factor=initial_division,
        final_div_factor=final_division,
    )


def _multiplied(
    optimizer: Optimizer, context: ScheduleContext, warmup_epochs: float, after_warmup: Callable[[float], float]
) -> LRScheduler:
    warmup_steps = round(warmup_epochs * context.steps_per_epoch)

    def multiplier(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return after_warmup((step - warmup_steps) / max(1, context.steps - warmup_steps))

    return LambdaLR(optimizer, multiplier)
