import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from convatlas.config.composition import check_config, compose, plain, project_path
from convatlas.errors import UserError
from convatlas.jobs import rerun as module
from convatlas.jobs.rerun import PlannedRun, as_overrides, ask_plan, changed_settings, open_attempt, prepared_rerun
from convatlas.record.provenance import differing_parts, environment, environment_differences
from convatlas.training.plan import TYPES


def recorded(*overrides: str) -> dict[str, Any]:
    """A configuration as ``config.yaml`` holds it."""
    settings: dict[str, Any] = yaml.safe_load(yaml.safe_dump(plain(compose("train", overrides)), sort_keys=False))
    return settings


@pytest.mark.parametrize(
    "overrides",
    [
        ["experiment=quickstart"],
        ["experiment=quickstart_detection", "seed=3"],
        ["augment=trivial_augment", "data.val_fraction=1e-7"],
        ["model=fcn8s_vgg16", "data=cityscapes", "data.root='/a b/it\\'s, {x}: \\\\'", "augment=masks_elastic"],
    ],
)
def test_a_recorded_configuration_composes_to_itself_whatever_the_defaults_are(overrides: list[str]) -> None:
    settings = recorded(*overrides)
    composed = compose("train", as_overrides(settings, project_path("conf")))
    check_config(composed, TYPES)
    # Networks are built in the order of their keys, which decides what random numbers they get.
    assert json.dumps(plain(composed)) == json.dumps(settings)


def test_single_values_can_be_replaced_and_a_new_seed_is_also_the_data_seed() -> None:
    settings = changed_settings(recorded(), ["seed=4", "optimizer.learning_rate=0.5", "trainer.max_epochs=2"])
    assert (settings["seed"], settings["data"]["seed"], settings["trainer"]["max_epochs"]) == (4, 4, 2)
    assert settings["optimizer"]["learning_rate"] == 0.5


@pytest.mark.parametrize("override", ["model=resnet18", "+model.depth=2", "trainer.epochs=3", "~data", "seed=1,2"])
def test_overrides_other_than_single_recorded_values_are_refused(override: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(override)}: .*record"):
        changed_settings(recorded(), [override])


def test_an_unfinished_attempt_is_resumed_only_by_the_same_source(tmp_path: Path) -> None:
    source, other = {"commit": "a" * 40}, {"commit": "b" * 40}
    best = {"metric": "val/top1", "value": 0.5, "step": 3}
    whole = {"ended": "2026-01-01T00:00:00+00:00", "epochs": 3, "steps": 3, "best": best, "test": {}}
    for name, state, git in (("r", "finished", source), ("r-a2", "preempted", other), ("r-a3", "preempted", source)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({**whole, "state": state}), encoding="utf-8")
        (tmp_path / name / "provenance.json").write_text(json.dumps({"git": git}), encoding="utf-8")
    assert open_attempt(tmp_path, "r", source).run_id == "r-a3"
    assert open_attempt(tmp_path, "r", other).run_id == "r-a2"
    assert open_attempt(tmp_path, "r", None).run_id == "r-a4"
    assert open_attempt(tmp_path, "new", source).run_id == "new"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "raise RuntimeError('in a call\\nfull_key: data') from UserError('data.root=/x: no such folder')",
            "data.root=/x: no",
        ),
        ("raise UserError('seed=a: expected a number')", "seed=a: expected"),
        ("raise ImportError('no such question')", "ImportError: no such question"),
    ],
)
def test_the_error_of_the_recorded_source_is_reported(
    script: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PLAN", f"from convatlas.errors import UserError\n{script}")
    with pytest.raises(UserError, match=f"refuses the recorded configuration: {reason}"):
        ask_plan([], {})


def test_differences_from_the_recorded_environment_are_listed() -> None:
    here = environment()
    assert environment_differences(here, environment()) == []
    before = here | {
        "python": "3.0",
        "packages": here["packages"] | {"torch": "1.0", "convatlas": "0.0"},
        "host": {name: value for name, value in here["host"].items() if name != "cpu"}
        | {"name": "x", "gpus": ["H100"]},
    }
    told = environment_differences(before, here)
    assert [line.partition(":")[0] for line in told] == ["python", "torch", "gpus", "cpu"]
    assert told[1] == f"torch: recorded 1.0, here {here['packages']['torch']}"
    assert told[3].startswith("cpu: recorded nothing, here ")


def test_data_that_differ_from_the_record_are_refused_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = environment() | {"git": {"commit": "b" * 40, "dirty": False, "diff": ""}}

    def prepare(**on_record: Any) -> None:
        found = {"classes": "c", "train/names": "n", "train/masks": "m", "val/image_sizes": "i"}
        plan = PlannedRun("r-s0", "digest", found, "legacy", here["host"]["torch_threads"], "")
        monkeypatch.setattr(module, "ask_plan", lambda *_: plan)
        with prepared_rerun("r-s0", recorded(), here | on_record, [], "current"):
            pass

    same = {"classes": "c", "train/names": "n", "train/masks": "m", "val/image_sizes": "i"}
    prepare(data_fingerprint="digest", data_digests=same)
    other = same | {"train/masks": "x"}
    del other["val/image_sizes"]
    with pytest.raises(UserError, match="data of the run: train masks, val image sizes differ"):
        prepare(data_fingerprint="other", data_digests=other)
    prepare(data_fingerprint="legacy")  # recorded before parts were told apart
    with pytest.raises(UserError, match="data of the run: names, labels or annotations differ"):
        prepare(data_fingerprint="digest")


def test_sizes_and_contents_are_not_compared() -> None:
    by_size = {"classes": "a", "train/image_sizes": "b", "val/names": "c", "val/image_sizes": "d"}
    by_content = {"classes": "x", "train/image_contents": "y"}
    assert differing_parts(by_size, by_content) == ["classes", "val image sizes", "val names"]
    assert differing_parts(by_size, by_size | {"train/image_sizes": "z"}) == ["train image sizes"]
    assert differing_parts(by_size, by_size) == []


def test_differences_between_the_parts_of_a_resumed_run_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = environment() | {"git": {"commit": "b" * 40, "dirty": False, "diff": ""}, "data_fingerprint": "d"}
    first = here | {
        "git": {"commit": "a" * 40, "dirty": True, "diff": "x"},
        "host": here["host"] | {"torch_threads": 99, "name": "elsewhere"},
    }
    plan = PlannedRun("r-s0", "d", {}, "d", here["host"]["torch_threads"], "")
    monkeypatch.setattr(module, "ask_plan", lambda *_: plan)
    monkeypatch.chdir(tmp_path)
    provenance = here | {"earlier_attempts": [first, here, first]}
    with prepared_rerun("r-s0", recorded(), provenance, [], "current") as rerun:
        assert rerun.differences == [
            "code: part of the run had commit aaaaaaaaaaaa with uncommitted changes",
            f"torch_threads: part of the run had 99, its end {here['host']['torch_threads']}",
        ]
