"""The configuration is checked before anything expensive happens; each message names the key."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, NonNegativeInt, PositiveInt

from convatlas.config import check_config, compose, overridden_keys, plain
from convatlas.errors import UserError

CONF = Path(__file__).parents[1] / "conf"
TYPES = {"seed": int, "run.root": str, "run.fresh": bool}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_train_composes_and_passes_the_check() -> None:
    config = compose("train")
    check_config(config, TYPES)
    assert plain(config)["model"]["name"] == "resnet20_cifar"


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in ("model", "data", "optimizer", "schedule", "augment", "trainer", "tracking", "debug")
        for option in options(group)
    ],
)
def test_every_option_composes_and_passes_the_check(group: str, option: str) -> None:
    text = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8")
    root = ["data.root=somewhere"] if "root: ???" in text else []
    classes = ["data.num_classes=10"] if "num_classes: null" in text else []
    config = compose("train", [f"{group}={option}", *root, *classes])
    check_config(config, TYPES)
    if group in ("model", "data"):
        assert config[group].name == option, "evaluate finds a checkpoint's data and model by this name"


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["modle=resnet18"], ["modle", "did you mean 'model'?"]),
        (["model=resnt18"], ["model=resnt18", "did you mean 'resnet18'?"]),
        (["experiment=resnet50_a9"], ["experiment=resnet50_a9", "did you mean 'resnet50_a"]),
        (["debug=fasst"], ["debug=fasst", "did you mean 'fast'?"]),
        (["model.net.dpeth=20"], ["model.net.dpeth", "did you mean 'model.net.depth'?"]),
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "did you mean 'trainer.max_epochs'?"]),
        (["seed=0", "trainer.max_epochs"], ["trainer.max_epochs"]),
    ],
)
def test_unknown_names_come_with_the_nearest(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose("train", overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer.max_epochs=ten", "int"),
        ("trainer.max_epochs=2.5", "int"),
        ("data.global_batch_size=many", "int"),
        ("optimizer.learning_rate=fast", "a positive number"),
        ("optimizer.algorithm.momentum=high", "float"),
        ("model.net.depth=deep", ""),
        ("model.net.shortcut=D", "A"),
        ("model.label_smoothing=some", "float"),
        ("seed=zero", "int"),
        ("run.fresh=perhaps", "bool"),
        ("+model.net.depht=20", "did you mean 'depth'?"),
        ("tracking.wandb.mode=maybe", "one of auto, online, offline"),
    ],
)
def test_wrong_types_name_the_key_and_what_was_expected(override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_config(compose("train", [override]), TYPES)
    key = override.lstrip("+").split("=")[0]
    assert key in str(caught.value)
    assert expected in str(caught.value)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(UserError, match=r"data\.root is missing"):
        check_config(compose("train", ["data=imagefolder"]), TYPES)


def test_overridden_keys_are_groups_and_values() -> None:
    assert overridden_keys(["data=imagefolder", "data.root=/x", "+a.b=1"]) == {"data", "data.root", "a.b"}


def test_small_images_take_the_small_stem() -> None:
    assert compose("train", ["model=alexnet"]).model.net.stem == "small"
    assert compose("train", ["model=alexnet", "data.image_size=224"]).model.net.stem == "imagenet"


@pytest.mark.parametrize(
    ("expected", "spoken"),
    [
        (PositiveInt | None, "a positive integer or null"),
        (Literal["A", "B"], "one of A, B"),
        (Annotated[int, Field(ge=1, le=100)], "int from 1 to 100"),
        (float, "float"),
        (list[NonNegativeInt], "a list, each entry an integer from 0"),
    ],
)
def test_expected_types_are_named_in_plain_words(expected: Any, spoken: str) -> None:
    with pytest.raises(UserError, match=rf"format=text: expected {spoken}$"):
        check_config(compose("runs"), {"format": expected})
