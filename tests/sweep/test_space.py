from typing import Any

import optuna
import pytest

from convatlas.errors import UserError
from convatlas.sweep.space import Choice, Float, Int, Space, override_text

RATE = "optimizer.learning_rate"
OPTIMIZER = Choice(key="optimizer", values=["sgd", "adamw"])
SPACE = Space(
    {
        "optimizer": OPTIMIZER,
        "sgd_rate": Float(
            key="optimizer.learning_rate", low=0.1, high=1.0, log=True, points=3, when={"optimizer": "sgd"}
        ),
        "adamw_rate": Float(
            key="optimizer.learning_rate", low=0.001, high=0.01, points=2, when={"optimizer": ["adamw"]}
        ),
        "epochs": Int(key="trainer.max_epochs", low=2, high=6, step=4),
    },
    lambda key: key == "optimizer",
)


def test_a_parameter_is_drawn_only_where_its_condition_holds() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [SPACE.suggest(study.ask()) for _ in range(40)]
    assert {values["optimizer"] for values in drawn} == {"sgd", "adamw"}
    for values in drawn:
        rate = "sgd_rate" if values["optimizer"] == "sgd" else "adamw_rate"
        assert set(values) == {"optimizer", rate, "epochs"}
    (override,) = (item for item in SPACE.overrides(drawn[0]) if "learning_rate" in item)
    assert override == f"optimizer.learning_rate={next(v for n, v in drawn[0].items() if n.endswith('rate'))}"


def test_a_grid_has_the_points_of_each_branch_once() -> None:
    grid = SPACE.grid()
    assert len(grid) == (3 + 2) * 2
    assert len({tuple(sorted(point.items())) for point in grid}) == len(grid)
    assert [point["sgd_rate"] for point in grid if "sgd_rate" in point] == [0.1, 0.1, 0.316228, 0.316228, 1.0, 1.0]
    assert Float(key="x", low=0.0, high=0.3, step=0.1).grid() == [0.0, 0.1, 0.2, 0.3]


def test_the_corners_hold_each_bound_and_each_choice_beside_each_option_of_a_group() -> None:
    corners = list(SPACE.corners())
    assert corners[0] == {"optimizer": "sgd", "sgd_rate": 0.1, "epochs": 2}
    assert {(corner["optimizer"], corner["epochs"]) for corner in corners} == {
        (optimizer, epochs) for optimizer in ("sgd", "adamw") for epochs in (2, 6)
    }
    assert {corner.get("adamw_rate") for corner in corners} == {None, 0.001, 0.01}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rate": Float(key="x", low=1.0, high=0.1)}, "space.rate: "),
        ({"rate": Float(key="x", low=0.0, high=1.0, log=True)}, "space.rate: "),
        ({"kind": Choice(key="x", values=[])}, "space.kind: "),
        ({"a": Int(key="x", low=1, high=2, when={"b": 1}), "b": Choice(key="y", values=[1])}, "space.a.when.b: "),
        ({"b": OPTIMIZER, "a": Int(key="x", low=1, high=2, when={"b": "adam"})}, "space.a.when.b=adam: "),
        ({}, "space: expected"),
        (
            {"a": Int(key="x", low=1, high=2), "b": Int(key="x", low=1, high=2)},
            "space.b.key=x: a has it too; expected when",
        ),
        (
            {"o": OPTIMIZER, "a": Int(key="x", low=1, high=2), "b": Int(key="x", low=1, high=2, when={"o": "adamw"})},
            "space.b.key=x: a has it too; expected when",
        ),
    ],
)
def test_what_makes_no_sense_is_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Space(parameters)


def test_a_grid_asks_how_many_values_a_number_has() -> None:
    with pytest.raises(UserError, match=r"space.rate: a grid needs step or points"):
        Space({"rate": Float(key="x", low=0.1, high=1.0)}).grid()


@pytest.mark.parametrize(
    ("value", "text"), [(None, "null"), (True, "true"), (1e-05, "1e-05"), ("[0.5,0.75]", "[0.5,0.75]")]
)
def test_values_are_written_as_hydra_reads_them(value: Any, text: str) -> None:
    assert override_text(value) == text
