import json

import pytest

from convatlas.config.composition import compose, project_path
from convatlas.errors import UserError
from pipelines import list as pipeline
from tests.conftest import Command


def test_each_group_that_a_verb_takes_has_a_description() -> None:
    groups = pipeline.list(compose("list"))["options"]
    assert {"cluster", "data", "experiment", "model", "optimizer", "protocol", "study", "sweep"} <= set(groups)
    assert all(groups.values())


def test_each_option_of_a_group_is_listed_with_its_first_comment() -> None:
    options = pipeline.list(compose("list", ["group=model"]))["options"]
    assert options["resnet50"].startswith("ResNet-50 (He et al. 2016")
    assert set(options) == {path.stem for path in (project_path("conf") / "model").glob("*.yaml")}


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(UserError, match=r"group=modle: expected one of .*model"):
        pipeline.list(compose("list", ["group=modle"]))


def test_the_group_is_taken_without_its_key(convatlas: Command) -> None:
    done = convatlas("list", "optimizer", "format=json")
    assert {"sgd", "adamw"} <= set(json.loads(done.stdout)["options"])
