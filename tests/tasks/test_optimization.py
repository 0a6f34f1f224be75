import math
import subprocess
import sys
from functools import partial
from typing import Literal

import pytest
import torch
from torch import nn

from convatlas.errors import UserError
from convatlas.tasks.optimization import (
    OptimizerConfig,
    Schedule,
    ScheduleContext,
    constant,
    cosine,
    exponential,
    one_cycle,
    plateau,
    poly,
    step,
)


def rates(schedule: Schedule, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, ScheduleContext(steps=steps, steps_per_epoch=10))
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_the_learning_rate_scales_with_the_batch() -> None:
    recipe = OptimizerConfig(algorithm=torch.optim.SGD, learning_rate=0.4, reference_batch_size=256)
    assert recipe.scaled_learning_rate(64) == pytest.approx(0.1)
    assert recipe.arithmetic(64) == "0.1 = 0.4 × 64/256"
    optimizer = recipe.build([nn.Parameter(torch.zeros(1))], 64)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_without_a_reference_the_rate_stays() -> None:
    recipe = OptimizerConfig(algorithm=torch.optim.SGD, learning_rate=0.4)
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


def test_the_exponential_falls_every_so_many_epochs() -> None:
    found = rates(lambda o, c: exponential(o, c, gamma=0.96, every_epochs=2), 50)  # ten steps an epoch
    assert found == pytest.approx([1.0] * 20 + [0.96] * 20 + [0.96**2] * 10)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_the_plateau_follows_the_metric_s_direction(mode: Literal["max", "min"]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = plateau(optimizer, ScheduleContext(steps=10, steps_per_epoch=1, mode=mode), patience=2, threshold=0.05)
    found = []
    for value in [0.5, 0.6, 0.7, 0.72, 0.74, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]:
        schedule.step(value if mode == "max" else -value)
        found.append(optimizer.param_groups[0]["lr"])
    assert found == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001])


def test_a_factor_that_does_not_reduce_is_refused() -> None:
    with pytest.raises(UserError, match=r"schedule\.factor=1\.5"):
        rates(lambda o, c: plateau(o, c, factor=1.5), 10)


def test_norms_and_biases_can_be_left_without_decay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    recipe = OptimizerConfig(
        algorithm=partial(torch.optim.SGD, weight_decay=0.5), learning_rate=1.0, decay_norms_and_biases=False
    )
    optimizer = recipe.build(net.parameters(), 1)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {name for name, parameter in net.named_parameters() if torch.equal(parameter, before[name])}
    assert kept == {"0.bias", "1.weight", "1.bias", "3.bias"}
    torch.testing.assert_close(net.get_parameter("3.weight"), 0.5 * before["3.weight"])


def test_timm_is_imported_where_it_is_chosen_and_nowhere_else() -> None:
    code = "import sys; from convatlas.config.composition import check_config, compose; import pipelines.train; "
    code += "from convatlas.training.plan import TYPES; "
    code += "check_config(compose('train', sys.argv[1:]), TYPES); print('timm' in sys.modules)"
    found = [
        subprocess.run([sys.executable, "-c", code, choice], capture_output=True, text=True, check=True).stdout.strip()
        for choice in ("optimizer=sgd", "optimizer=lamb")
    ]
    assert found == ["False", "True"]


def test_constant_is_constant() -> None:
    assert rates(constant, 3) == [1.0, 1.0, 1.0]
