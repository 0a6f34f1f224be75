"""Public names last: those that configurations and checkpoints hold go on meaning the same objects."""

import re
from pathlib import Path

import pytest

from convatlas.config.former_names import FORMER
from convatlas.config.public_names import TABLE, find_object, kind_of, public_name
from convatlas.data.detection.transforms import ObjectFlip
from convatlas.models import ResNet
from convatlas.models.classification.resnet import ResNet as DefinedResNet

ROOT = Path(__file__).parents[2]
OF_A11EE17 = (ROOT / "tests" / "a11ee17_names.txt").read_text(encoding="utf-8").split()
"""Every name that the configurations of commit a11ee17 constructed."""


def test_configurations_use_public_names_of_the_table() -> None:
    names = {
        name
        for path in (ROOT / "conf").rglob("*.yaml")
        for name in re.findall(r"_target_: *([\w.]+)", path.read_text(encoding="utf-8"))
    }
    assert len(names) > 70
    assert {name for name in names if public_name(name) != name} == set()


def test_every_entry_of_the_table_exists() -> None:
    for kind, entries in TABLE.items():
        for name, location in entries.items():
            assert kind_of(name) == kind
            assert callable(find_object(name))
            assert public_name(location) == public_name(name) == name


def test_every_former_name_stands_for_a_public_one() -> None:
    assert all(callable(find_object(public)) and public_name(former) == public for former, public in FORMER.items())


@pytest.mark.parametrize("name", OF_A11EE17)
def test_a_name_of_a11ee17_still_stands_for_an_object(name: str) -> None:
    public = public_name(name)
    assert public is not None
    assert callable(find_object(public))


def test_a_public_name_is_an_attribute_of_its_package() -> None:
    assert ResNet is DefinedResNet
    assert find_object("convatlas.data.ObjectFlip") is ObjectFlip
    with pytest.raises(ImportError):
        from convatlas.models import Sequential  # noqa: F401


@pytest.mark.parametrize(
    "name", ["convatlas.models.weights.torch.load", "os.system", "", "convatlas.models.", "ResNet"]
)
def test_other_strings_are_not_public_names(name: str) -> None:
    assert public_name(name) is None
