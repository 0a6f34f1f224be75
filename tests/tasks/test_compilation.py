import pytest
import torch
import torch._inductor.config

from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet
from convatlas.tasks.classification.task import ClassificationTask
from convatlas.tasks.optimization import OptimizerConfig
from tests.compiler import needs_compiler
from tests.tasks.classification.test_task import batch_of, task

RECIPE = OptimizerConfig(algorithm=torch.optim.SGD, learning_rate=0.1)


def test_a_machine_without_compiler_is_told_so_before_training() -> None:
    with (
        torch._inductor.config.patch("cpp.cxx", (None, "no-such-compiler")),
        pytest.raises(UserError, match=r"model\.compile=true: .*compiler.*expected a C\+\+ compiler") as caught,
    ):
        task(compile=True, optimizer=RECIPE)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_only_evaluated_is_not_compiled() -> None:
    with torch._inductor.config.patch("cpp.cxx", (None, "no-such-compiler")):
        task(compile=True)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_step_is_the_same_step_and_names_stay() -> None:
    batch = batch_of(torch.arange(10))._replace(
        images=torch.randn(10, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    )
    tasks: list[ClassificationTask] = [task(), task(compile=True, optimizer=RECIPE)]
    losses = []
    for one in tasks:
        loss = one.loss(one.output(batch), batch)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    plain, compiled = (one.state_dict() for one in tasks)
    assert list(plain) == list(compiled)
    for name in plain:
        torch.testing.assert_close(compiled[name], plain[name], rtol=1e-4, atol=1e-4)
    gradients = zip(*(one.net.named_parameters() for one in tasks), strict=True)
    for (name, mine), (_, others) in gradients:
        torch.testing.assert_close(others.grad, mine.grad, rtol=1e-2, atol=1e-3, msg=name)
    assert isinstance(tasks[1].net, CifarResNet)
