"""Checkpoints whose checksums are right and whose parts are not: found before a run goes on from them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class, get_method, instantiate
from torch.optim.lr_scheduler import ReduceLROnPlateau

from convatlas.config.composition import compose
from convatlas.config.public_names import TABLE
from convatlas.errors import UserError
from convatlas.tasks.optimization import OptimizerConfig
from convatlas.training.checkpoint_io import read_checkpoint
from convatlas.training.plan import plan_run
from convatlas.training.rehearsal import COURSE, Rehearsal, check_moments, load_on_trial
from pipelines.train import train
from tests.conftest import SMALL

Damage = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def rehearsal() -> Rehearsal:
    """Loads checkpoints of the small run."""
    config = compose("train", SMALL)
    _, data = plan_run(config)
    task = instantiate(config.model, optimizer=instantiate(config.optimizer), schedule=instantiate(config.schedule))
    return Rehearsal(config.trainer, task, data)


def last(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


def put(*keys: Any, value: Any) -> Damage:
    """A damage that sets one value."""

    def damage(checkpoint: dict[str, Any]) -> None:
        node: Any = checkpoint
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return damage


MOMENTUM = ("optimizer_states", 0, "state", 0)
GROUP = ("optimizer_states", 0, "param_groups", 0)
SCHEDULE = ("lr_schedulers", 0)
LOOP = ("loops", "fit_loop")
STATE = ("process_states", 0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (put("state_dict", "net.conv1.weight", value=torch.zeros(3)), r"misshapen: conv1\.weight \(3,\) for \(16, 1,"),
        (lambda checkpoint: checkpoint["state_dict"].pop("net.fc.bias"), r"missing: fc\.bias"),
        (put("state_dict", "net.more", value=torch.zeros(3)), "unexpected: more"),
        (put("optimizer_states", value=[]), "ValueError: not enough values"),
        (put("optimizer_states", value=5), "TypeError"),
        (put("optimizer_states", value=["x"]), "optimizer_states: expected state, param_groups, found 'x'"),
        (put("optimizer_states", 0, "state", value=[]), "AttributeError: 'list'"),
        (put("optimizer_states", 0, "state", value={"x": {}}), "state of 'x', which is no parameter"),
        (put("optimizer_states", 0, "param_groups", value=[]), "different number of parameter groups"),
        (
            put(*MOMENTUM, "momentum_buffer", value=torch.zeros(3)),
            r"is a tensor \(3,\), its parameter a tensor \(16, 1",
        ),
        (put(*MOMENTUM, "momentum_buffer", value="x"), "momentum_buffer: expected a tensor, found"),
        (put(*MOMENTUM, "momentum_buffer", value=3), "momentum_buffer: expected a tensor, found int"),
        (put(*GROUP, "lr", value="0.1"), r"lr: expected float, found '0\.1'"),
        (put(*GROUP, "momentum", value=None), "momentum: expected float, found NoneType"),
        (
            lambda checkpoint: checkpoint["optimizer_states"][0]["param_groups"][0].pop("momentum"),
            "momentum is missing",
        ),
        (put("lr_schedulers", value=None), "TypeError"),
        (put("lr_schedulers", value=[{}]), "lr_schedulers: expected total_steps, .*, found dict"),
        (put(*SCHEDULE, "last_epoch", value="x"), "lr_schedulers.last_epoch: expected int, found 'x'"),
        (
            put(*SCHEDULE, "_schedule_phases", value=[]),
            "lr_schedulers._schedule_phases: expected list of 2, found list",
        ),
        (put("loops", value=[]), "TypeError"),
        (put("loops", value={}), "KeyError: 'fit_loop'"),
        (put(*LOOP, "epoch_progress", value={"current": []}), "epoch_progress.current: expected ready, "),
        (put(*LOOP, "epoch_progress", "current", "processed", value="x"), "current.processed: expected int, found 'x'"),
        (
            put(*LOOP, "epoch_progress", "current", "processed", value=9),
            "more epochs are over than trainer.max_epochs=2",
        ),
        (
            put(*LOOP, "epoch_progress", "current", "completed", value=9),
            "more epochs are over than trainer.max_epochs=2",
        ),
        (put(*LOOP, "state_dict", "combined_loader", value=["x"]), "combined_loader.0: expected dict, found 'x'"),
        (put("global_step", value=11), "loops are at step 12, global_step is 11"),
        (put("callbacks", value=[]), "TypeError"),
        (put("callbacks", value={}), "KeyError: 'RunCheckpoints'"),
        (put("callbacks", "RunCheckpoints", "best_value", value="x"), "best_value: expected float, found 'x'"),
        (put("callbacks", "RunCheckpoints", "record_bytes", value="x"), "record_bytes: expected int, found 'x'"),
        (put("convatlas", "config", "trainer", value="x"), "TypeError"),
        (put("convatlas", "config", "trainer", "log_every_n_steps", value=0), "log_every_n_steps: expected a positive"),
        (put("process_states", value=[]), "process_states: expected one for each rank"),
        (put(*STATE, "random", value={}), "KeyError: 'python'"),
        (put(*STATE, "random", "torch", value=torch.zeros(3)), "Error"),
        (put(*STATE, "loader", "batches", value="6"), "process_states.loader.batches: expected int, found '6'"),
        (put(*STATE, "metrics", value={"no_metric": {}}), "KeyError: 'no_metric'"),
        (put("pytorch-lightning_version", value="x"), "InvalidVersion"),
    ],
)
def test_a_part_that_cannot_be_loaded_is_named(
    trained: dict[str, Any], rehearsal: Rehearsal, tmp_path: Path, damage: Damage, message: str
) -> None:
    checkpoint = read_checkpoint(last(Path(trained["run"])))
    damage(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=rf"^checkpoint=.*last\.ckpt: [^\n]*{message}[^\n]*$"):
        rehearsal.read(tmp_path / "last.ckpt")


def optimizer_and_schedule(algorithm: str, schedule: str) -> tuple[torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Conv2d(2, 2, 1, bias=False))
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    recipe = OptimizerConfig(algorithm=get_class(algorithm), learning_rate=0.1, decay_norms_and_biases=False)
    optimizer = recipe.build(net.parameters(), 16)
    needed: dict[str, dict[str, Any]] = {"step": {"milestones": [0.5]}, "exponential": {"gamma": 0.9}}
    make = get_method(TABLE["schedule"][schedule])
    return optimizer, make(optimizer, COURSE, **needed.get(schedule.rpartition(".")[2], {}))


@pytest.mark.parametrize(
    ("algorithm", "schedule"),
    [
        *((algorithm, "convatlas.tasks.cosine") for algorithm in TABLE["algorithm"]),
        *(("torch.optim.SGD", schedule) for schedule in TABLE["schedule"]),
    ],
)
def test_every_optimizer_and_schedule_loads_its_own_state(algorithm: str, schedule: str) -> None:
    optimizer, course = optimizer_and_schedule(algorithm, schedule)
    for _ in range(2):
        optimizer.step()
        course.step(*[0.5][: isinstance(course, ReduceLROnPlateau)])
    new, new_course = optimizer_and_schedule(algorithm, schedule)
    load_on_trial(new, new.state_dict(), optimizer.state_dict(), "optimizer")
    check_moments(new)
    load_on_trial(new_course, new_course.state_dict(), course.state_dict(), "schedule")
    assert new_course.state_dict() == course.state_dict()


@pytest.fixture
def unfinished(trained: dict[str, Any], tmp_path: Path) -> Path:
    """The small run as a kill leaves it before its end, with two checkpoints of its last step."""
    run = tmp_path / Path(trained["run"]).name
    shutil.copytree(trained["run"], run)
    shutil.copy(last(run), run / "checkpoints" / "previous.ckpt")
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    (run / "summary.json").write_text(json.dumps(summary | {"state": "running"}), encoding="utf-8")
    return run


def damage_momentum(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    checkpoint["optimizer_states"][0]["state"][0]["momentum_buffer"] = torch.zeros(3)
    torch.save(checkpoint, path)


def test_previous_takes_over_from_a_misshapen_last(
    trained: dict[str, Any], unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage_momentum(last(unfinished))
    result = train(compose("train", [*SMALL, f"run.root={unfinished.parent}"]))
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "momentum_buffer" in line]
    assert line.startswith("convatlas: warning: checkpoint=")
    assert line.endswith("resuming from previous.ckpt")
    assert (result["state"], result["test"]) == ("finished", trained["test"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["last", "previous"], r"last\.ckpt: .*; no other checkpoint is left: run\.fresh=true [^\n]*$"),
        (["best"], r"best\.ckpt: damaged: training cannot resume from it \(ValueError: optimizer_states: [^\n]*$"),
    ],
)
def test_a_run_without_a_valid_checkpoint_is_not_changed(unfinished: Path, names: list[str], message: str) -> None:
    for name in names:
        damage_momentum(unfinished / "checkpoints" / f"{name}.ckpt")
    before = {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        train(compose("train", [*SMALL, f"run.root={unfinished.parent}"]))
    assert {path: path.read_bytes() for path in unfinished.rglob("*") if path.is_file()} == before
