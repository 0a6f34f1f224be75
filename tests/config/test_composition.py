"""The configuration is checked before anything expensive happens; each message names the key."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from omegaconf import OmegaConf
from pydantic import Field, NonNegativeInt, PositiveInt

from convatlas.config.composition import check_config, compose, overridden_keys, plain
from convatlas.errors import UserError

CONF = Path(__file__).parents[2] / "conf"
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
def test_an_unknown_name_is_reported_with_the_nearest_one(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        compose("train", overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("verb", "override", "hint"),
    [
        ("train", "lr=0.5", "; did you mean 'optimizer.learning_rate'?"),
        ("train", "+lr=0.5", "; did you mean 'optimizer.learning_rate'?"),
        ("train", "++epochs=3", "; did you mean 'trainer.max_epochs'?"),
        ("check", "batch_size=3", "; did you mean 'data.global_batch_size'?"),
        ("train", "optimizer.wd=0.1", "; did you mean 'optimizer.algorithm.weight_decay'?"),
        ("train", "num_workers=3", "; did you mean 'data.threads'?"),
        ("train", "+run.resume=true", ""),
        ("train", "+ema.enabled=true", ""),
        ("evaluate", "+protocol.crops=3", ""),
        ("evaluate", "++protocol.crops=3", ""),
        ("predict", "+on_error=skip", ""),
        ("train", "model.net.groups=3", ""),
        ("train", "trainer.logger=true", ""),
        ("train", "+augment.jitter=true", None),
        ("train", "hydra.run.dir=x", None),
        ("train", "+hydra.verbose=true", None),
    ],
)
def test_a_key_that_nothing_reads_is_refused_wherever_it_stands(verb: str, override: str, hint: str | None) -> None:
    key = override.lstrip("+").partition("=")[0]
    with pytest.raises(UserError) as caught:
        check_config(compose(verb, [override]), {})
    message = str(caught.value)
    assert message.startswith(key if hint is None else f"{key}: there is no such key{hint}")
    assert "\n" not in message


@pytest.mark.parametrize(
    "override",
    ["model.net.shortcut_padding=both", "optimizer.algorithm.dampening=0.1", "trainer.gradient_clip_algorithm=norm"],
)
def test_any_argument_of_a_constructor_can_be_given_without_a_plus(override: str) -> None:
    key, _, value = override.partition("=")
    for written in (override, f"+{override}", f"++{override}"):
        config = compose("train", [written, "trainer.max_epochs=2"])
        check_config(config, TYPES)
        assert str(OmegaConf.select(config, key)) == value


def test_several_arguments_of_constructors_can_be_given_without_a_plus() -> None:
    overrides = ["model=unet_same", "data=shapes_masks", "model.net.width=8", "model.net.width=4", "model.net.levels=3"]
    net = compose("train", [*overrides, "trainer.gradient_clip_algorithm=norm"]).model.net
    assert (net.width, net.levels) == (4, 3)
    with pytest.raises(UserError, match=r"^model\.net\.widht: there is no such key; did you mean 'model\.net\.width'"):
        compose("train", [*overrides, "model.net.widht=4"])
    with pytest.raises(UserError, match=r"^model=unit_same: there is no such .*; did you mean 'unet_same'"):
        compose("train", ["model=unit_same", *overrides[1:]])


def test_objects_with_names_of_their_own_can_be_added() -> None:
    step = "+augment.steps.jitter={_target_: convatlas.data.ColorJitter, hue: 0.1}"
    config = compose("train", [step, "+tracking.board={_target_: convatlas.tracking.tensorboard_mirror}"])
    check_config(config, {})
    with pytest.raises(UserError, match=r"augment\.steps\.jitter\.huge: .*takes no such argument; did you mean 'hue'"):
        check_config(compose("train", [step.replace("hue", "huge")]), {})


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
        ("+model.net._args_=[20]", "model.net._args_: expected every argument by its name"),
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
