import math

import pytest
import torch
from torch import nn

from convatlas.tasks.optimization import Course, OptimizerRecipe, Schedule, constant, cosine, one_cycle, poly, step


def rates(schedule: Schedule, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, Course(steps=steps, steps_per_epoch=10))
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_learning_rate_scales_with_the_batch() -> None:
    recipe = OptimizerRecipe(algorithm=torch.optim.SGD, learning_rate=0.4, reference_batch_size=256)
    assert recipe.scaled_learning_rate(64) == pytest.approx(0.1)
    assert recipe.arithmetic(64) == "0.1 = 0.4 × 64/256"
    optimizer = recipe.build([nn.Parameter(torch.zeros(1))], 64)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_without_a_reference_the_rate_stays() -> None:
    recipe = OptimizerRecipe(algorithm=torch.optim.SGD, learning_rate=0.4)
    assert recipe.scaled_learning_rate(64) == 0.4
    assert recipe.arithmetic(64) == "0.4"


def test_poly_falls_by_a_power_of_what_is_left() -> None:
    found = rates(poly, 100)
    assert found == pytest.approx([(1 - k / 100) ** 0.9 for k in range(100)])
    warm = rates(lambda o, c: poly(o, c, power=1.0, warmup_epochs=1.0), 100)
    assert warm[:11] == pytest.approx([(k + 1) / 11 for k in range(10)] + [1.0])


def test_cosine_warms_up_and_ends_near_zero() -> None:
    found = rates(lambda o, c: cosine(o, c, warmup_epochs=1.0), 100)
    assert found[:10] == pytest.approx([(k + 1) / 11 for k in range(10)])
    assert found[10] == 1.0
    assert found[55] == pytest.approx(0.5)
    assert found[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_steps_fall_at_the_milestones() -> None:
    found = rates(lambda o, c: step(o, c, milestones=[0.5, 0.75]), 8)
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_one_cycle_peaks_at_the_learning_rate() -> None:
    found = rates(one_cycle, 100)
    assert max(found) == pytest.approx(1.0, abs=1e-3)
    assert found[0] == pytest.approx(1 / 25)
    assert found[-1] < 1e-4


def test_constant_is_constant() -> None:
    assert rates(constant, 3) == [1.0, 1.0, 1.0]
