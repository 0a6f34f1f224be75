"""Which commands are the same run, now and after ConvAtlas or a library has changed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from convatlas.config.arguments import expanded
from convatlas.config.composition import compose, plain
from convatlas.config.former_names import FORMER
from convatlas.config.public_names import TABLE
from convatlas.errors import UserError
from convatlas.record.identity import changed_settings, initial_weights, run_id, weights_fingerprint
from convatlas.training.plan import plan_run
from tests.conftest import SMALL
from tests.fixtures import copy_run


def identity(*overrides: str, fingerprint: str = "f") -> str:
    return run_id(plain(compose("train", overrides)), fingerprint)


def test_the_name_reads_as_model_data_hash_seed() -> None:
    model, data, digest, seed = identity("seed=3").split("-")
    assert (model, data, seed) == ("resnet20_cifar", "fashion_mnist_sample", "s3")
    assert len(digest) == 8


@pytest.mark.parametrize(
    "override",
    [
        "data.threads=7",
        "data.prefetch=9",
        "run.root=/elsewhere",
        "tracking=none",
        "format=json",
        "seeds=[1,2,3]",
        "trainer.devices=2",
        "trainer.profiler=simple",
        "expected=[{metric: test/top1, value: 0.9, source: a guess}]",
    ],
)
def test_what_does_not_change_the_result_does_not_change_the_run(override: str) -> None:
    assert identity(override) == identity()


@pytest.mark.parametrize(
    "override", ["trainer.max_epochs=3", "model.label_smoothing=0.2", "data.global_batch_size=32", "augment=none"]
)
def test_what_changes_the_result_changes_the_run(override: str) -> None:
    assert identity(override) != identity()


def test_seeds_of_one_recipe_share_the_hash() -> None:
    assert identity("seed=1").split("-")[2] == identity("seed=2").split("-")[2]


def test_other_images_are_another_run() -> None:
    assert identity(fingerprint="g") != identity(fingerprint="f")


def test_the_configuration_is_left_alone() -> None:
    config: dict[str, Any] = plain(compose("train"))
    run_id(config, "f")
    assert config == plain(compose("train"))


def test_initial_weights_count_by_their_content(tmp_path: Path) -> None:
    first, same, other = (tmp_path / name for name in ("a.pth", "b.pth", "c.pth"))
    first.write_bytes(b"1")
    same.write_bytes(b"1")
    other.write_bytes(b"2")
    assert weights_fingerprint(str(first)) == weights_fingerprint(str(same)) != weights_fingerprint(str(other))
    assert identity("model.weights=a.pth") == identity("model.weights=b.pth")
    assert weights_fingerprint(str(first), "state_dict_ema") != weights_fingerprint(str(first))
    assert identity("model.weights_entry=state_dict_ema") == identity(), "the fingerprint counts"
    node = {"weights": str(first), "weights_entry": None}
    chosen = {"weights": str(first), "weights_entry": "model_ema"}
    assert initial_weights(node) == initial_weights({"weights": str(first)}), "runs of before had no such key"
    assert initial_weights(chosen) != initial_weights(node)
    assert initial_weights({"weights": None, "backbone": chosen}) != initial_weights(
        {"weights": None, "backbone": node}
    )
    assert initial_weights({"weights": None, "backbone": None}) == initial_weights({}) == [""]
    assert weights_fingerprint("torchvision") not in (weights_fingerprint(None), weights_fingerprint("torchvision:A"))


@pytest.mark.parametrize(
    "override",
    [
        "model.net.stochastic_depth=0.0",
        "optimizer.algorithm.dampening=0",
        "trainer.gradient_clip_algorithm=null",
        "data.on_error=raise",
        "ema.decay=null",
    ],
)
def test_an_argument_at_its_default_counts_as_if_it_were_not_there(override: str) -> None:
    assert identity(override) == identity()


def test_all_arguments_at_their_defaults_and_former_names_of_classes_change_no_name() -> None:
    config = plain(compose("train", ["model=mask_rcnn_resnet18_fpn", "data=shapes_objects", "schedule=cosine"]))
    locations = {name: location for entries in TABLE.values() for name, location in entries.items()}
    locations |= {public: former for former, public in FORMER.items()}

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: locations[item] if key == "_target_" else moved(item) for key, item in value.items()}
        return value

    assert moved(config) != config
    assert run_id(moved(config), "f") == run_id(expanded(config), "f") == run_id(config, "f")


def test_a_record_with_former_names_of_classes_is_not_a_difference() -> None:
    now = expanded(plain(compose("train", ["model=mask_rcnn_resnet18_fpn", "data=shapes_objects"])))
    then = json.loads(json.dumps(now).replace("convatlas.tasks.OptimizerConfig", "convatlas.tasks.OptimizerRecipe"))
    assert then != now
    assert changed_settings(then, now) == []


def test_a_default_that_differs_from_the_record_is_found_and_a_new_argument_is_not_one() -> None:
    now = expanded(plain(compose("train")))
    assert changed_settings(now, now) == []
    then = expanded(plain(compose("train", ["trainer.gradient_clip_val=1.0", "data.threads=7"])))
    del then["model"]["net"]["stochastic_depth"]
    assert changed_settings(then, now) == ["trainer.gradient_clip_val was 1.0, now None"]
    then = now | {"schedule": now["schedule"] | {"former": 3}}
    assert changed_settings(then, now) == ["schedule.former was 3, now gone: there is no such key any more"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.gradient_clip_val", 5.0, r"trainer\.gradient_clip_val was 5\.0, now None; .*run\.fresh=true"),
        ("optimizer.algorithm.dampening", 0.5, r"optimizer\.algorithm\.dampening was 0\.5, now 0"),
        ("data.threads", 9, None),
        ("tracking", {"wandb": {}}, None),
    ],
)
def test_a_run_with_other_defaults_than_todays_is_neither_shown_nor_resumed(
    key: str, value: Any, message: str | None, trained: dict[str, Any], tmp_path: Path
) -> None:
    run = copy_run(Path(trained["run"]), tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    node = config
    for part in key.split(".")[:-1]:
        node = node[part]
    node[key.split(".")[-1]] = value
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = compose("train", [*SMALL, f"run.root={tmp_path}"])
    if message is None:
        assert plan_run(command)[0].path == run
        return
    with pytest.raises(UserError, match=message):
        plan_run(command)
    command.run.fresh = True
    assert plan_run(command)[0].path == run.with_name(f"{run.name}-a2")
