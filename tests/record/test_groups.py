from pathlib import Path
from typing import Any

import pytest

from convatlas.record.groups import group_key, group_runs, metric_names, short_key
from convatlas.record.reader import RunRecord, read_run


def record(run_id: str, top1: float | str | None = None, **config: Any) -> RunRecord:
    summary: dict[str, Any] = {"run_id": run_id, "name": "net on data", "state": "finished"}
    if top1 is not None:
        summary |= {"test": {"test/loss": 0.5, "test/top1": top1}, "best": {"metric": "val/top1", "value": top1}}
    return RunRecord(
        path=Path(run_id),
        config=config,
        provenance={},
        summary=summary,
        state="finished",
        series={},
        torn=False,
        evaluation_files=(),
    )


def test_runs_that_differ_in_the_seed_alone_are_one_group(make_run: Any) -> None:
    runs = [read_run(make_run(seed=0)), read_run(make_run(seed=1, skill=0.5)), read_run(make_run(seed=2))]
    groups = group_runs(runs)
    assert [[run.config["seed"] for run in group.runs] for group in groups] == [[0, 2], [1]]
    assert groups[0].settings == {"optimizer.lr": 0.1}
    assert [group.label for group in groups] == ["resnet20_cifar10 · lr 0.1", "resnet20_cifar10 · lr 0.05"]


@pytest.mark.parametrize("run_id", ["net-data-12345678-s0", "net-data-12345678-s31", "net-data-12345678-s0-a2"])
def test_attempts_belong_to_the_group_of_their_seed(run_id: str) -> None:
    assert group_key(record(run_id)) == "net-data-12345678"


def test_the_statistic_is_the_mean_and_the_sample_deviation_of_finite_values() -> None:
    values: list[float | str | None] = [0.8, 0.9, "NaN", None]
    (group,) = group_runs([record(f"a-s{seed}", top1) for seed, top1 in enumerate(values)])
    found = group.statistic("test/top1")
    assert found is not None
    assert [found.mean, found.deviation] == pytest.approx([0.85, 0.005**0.5])
    assert found.count == 2
    (single,) = group_runs([record("a-s0", 0.8)])
    assert single.statistic("best val/top1") is not None
    assert single.statistic("best val/top1").deviation is None  # type: ignore[union-attr]
    assert single.statistic("test/top5") is None
    assert metric_names([record("a-s0", 0.8)]) == ["test/top1", "test/loss", "best val/top1"]


def test_settings_are_what_differs_between_groups_and_not_within_one() -> None:
    groups = group_runs(
        [
            record("a-s0", seed=0, lr=0.1, data={"seed": 0, "threads": 2}, run={"root": "x"}, same=1),
            record("a-s1", seed=1, lr=0.1, data={"seed": 1, "threads": 8}, run={"root": "y"}, same=1),
            record("b-s0", seed=0, lr=0.3, data={"seed": 0, "threads": 2}, run={"root": "z"}, same=1, more=[1]),
        ]
    )
    assert [dict(group.settings) for group in groups] == [{"lr": 0.1, "more": None}, {"lr": 0.3, "more": [1]}]
    assert [group.label for group in groups] == ["net · lr 0.1, more null", "net · lr 0.3, more [1]"]


def test_a_former_name_of_a_class_is_no_difference() -> None:
    names = ["convatlas.tasks.OptimizerRecipe", "convatlas.tasks.optimization.OptimizerRecipe"]
    groups = group_runs([record(f"{name[-20:]}-s0", optimizer={"_target_": name}) for name in names])
    assert [dict(group.settings) for group in groups] == [{}, {}]


def test_groups_that_nothing_tells_apart_have_their_hash() -> None:
    groups = group_runs([record("net-data-11111111-s0"), record("net-data-22222222-s0")])
    assert [group.label for group in groups] == ["net · 11111111", "net · 22222222"]


@pytest.mark.parametrize(
    ("key", "label"), [("optimizer.algorithm.weight_decay", "weight_decay"), ("model.name", "model"), ("name", "name")]
)
def test_keys_are_short_in_tables(key: str, label: str) -> None:
    assert short_key(key) == label
