"""Configurations with every argument, and without those at their defaults."""

import pytest

from convatlas.config import arguments
from convatlas.config.arguments import defaults, expanded, parameters, reduced
from convatlas.config.composition import compose, plain
from convatlas.utils.files import dumps

NET = {"_target_": "convatlas.models.classification.resnet.ResNet", "depth": 50, "stem": "imagenet"}


def test_every_argument_is_filled_in_under_the_public_name() -> None:
    net = expanded(NET)
    assert list(net)[:3] == ["_target_", "depth", "stem"]
    assert net["_target_"] == "convatlas.models.ResNet"
    assert net.keys() - {"_target_"} == parameters("convatlas.models.ResNet").keys()
    assert net["num_classes"] == 1000


def test_nested_nodes_are_filled_in_and_tuples_become_lists() -> None:
    config = expanded(plain(compose("train", ["augment=random_resized_crop"])))
    crop = config["data"]["augment"]["crop"]
    assert crop["ratio"] == pytest.approx([3 / 4, 4 / 3])
    assert config["data"]["augment"]["batch"] == {}
    assert config["optimizer"]["algorithm"]["dampening"] == 0


def test_arguments_that_the_program_supplies_are_left_out() -> None:
    assert not {"params", "lr"} & defaults("torch.optim.SGD").keys()
    assert not {"logger", "callbacks", "plugins"} & parameters("pytorch_lightning.Trainer").keys()


def test_reduced_is_the_same_whether_defaults_are_given_or_not() -> None:
    for name in ("train", "check"):
        config = plain(compose(name, ["model=mask_rcnn_resnet50_fpn", "data=shapes_objects", "optimizer=lamb"]))
        assert reduced(expanded(config)) == reduced(config)
    assert reduced({**NET, "stochastic_depth": 0.0}) == reduced(NET)
    assert "stem" not in reduced(NET)
    assert reduced({**NET, "stem": "small"})["stem"] == "small"


def test_one_batch_is_not_all_batches() -> None:
    trainer = {"_target_": "convatlas.data.image_folder", "scan_cache": "user"}
    assert reduced(trainer) == {"_target_": "convatlas.data.image_folder"}
    flip = {"_target_": "convatlas.data.HorizontalFlip"}
    usual = defaults("convatlas.data.HorizontalFlip")["p"]
    assert reduced({**flip, "p": usual}) == flip
    erasing = {"_target_": "pytorch_lightning.Trainer"}
    assert reduced({**erasing, "overfit_batches": 0.0}) == erasing
    limits = [dumps(reduced({**erasing, "limit_val_batches": limit})) for limit in (1, 1.0)]
    assert limits[0] != limits[1]


def test_a_whole_number_is_a_float_where_floats_are_asked_for() -> None:
    optimizer = {"_target_": "convatlas.tasks.OptimizerConfig", "learning_rate": 1, "reference_batch_size": 256}
    assert reduced(optimizer) == reduced({**optimizer, "learning_rate": 1.0})
    assert dumps(expanded(optimizer)["learning_rate"]) == "1.0"
    assert dumps(expanded(optimizer)["reference_batch_size"]) == "256"
    data = {"_target_": "convatlas.data.ClassificationDataModule", "mean": [0, 0.5]}
    assert dumps(reduced(data)["mean"]) == "[0.0, 0.5]"
    sgd = {"_target_": "torch.optim.SGD"}
    assert reduced({**sgd, "dampening": 0}) == reduced({**sgd, "dampening": 0.0}) == sgd


def test_a_default_that_was_changed_on_purpose_enters_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reduced(NET), reduced({**NET, "stride_in": "3x3"})
    monkeypatch.setattr(arguments, "CHANGED_DEFAULTS", {"convatlas.models.ResNet.stride_in": 2})
    assert reduced(NET) == before[0] | {"stride_in at default of version": 2}
    assert reduced({**NET, "stride_in": "3x3"}) == before[1]


def with_function(path: str, activation: object = plain, size: object = range(3)) -> None:
    """A constructor of a user, with defaults that are objects."""


def test_defaults_that_are_objects_are_recorded_without_their_addresses() -> None:
    found = defaults(f"{__name__}.with_function")
    assert found == {"activation": "<function plain>", "size": "range(0, 3)"}
