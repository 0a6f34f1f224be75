from pathlib import Path
from typing import Any

import pytest

from convatlas.config import compose, plain
from convatlas.run.identity import initial_weights, run_id, weights_fingerprint


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
    assert weights_fingerprint("torchvision") not in (weights_fingerprint(None), weights_fingerprint("torchvision:A"))
