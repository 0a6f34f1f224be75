from typing import Any

import pytest

from convatlas.errors import UserError
from tests.studies.conftest import study_of

FACTOR = {"key": "optimizer.learning_rate", "values": [0.1, 0.3], "select": "best"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"expect": [{"better": "dep", "worse": "flat", "source": ""}]}, r"study\.expect\.0\.better=dep: .*'deep'"),
        ({"expect": [{"better": "deep", "worse": "deep", "source": ""}]}, "cannot be paired"),
        ({"published": [{"arm": "other", "value": 1, "source": ""}]}, r"study\.published\.0\.arm=other: no such arm"),
        ({"arms": {"deep": {"label": "deep", "override": []}}}, r"study\.arms\.deep\.override: unexpected keyword"),
        ({"arms": {"deep": {"overrides": []}}}, r"study\.arms\.deep\.label: "),
        ({"arms": {}}, "study.arms: expected at least one"),
        ({"seeds": [1, 1]}, r"study\.seeds=\[1, 1\]: .* each once"),
        ({"seeds": [-1]}, r"study\.seeds\.0=-1: "),
        ({"factor": FACTOR | {"values": []}}, r"study\.factor\.values=\[\]"),
        ({"factor": FACTOR | {"select": "all"}}, r"study\.factor\.select=all: "),
        ({"metric": "top1"}, r"study\.metric=top1: expected train/"),
        ({"threshold": 0.5}, "study.threshold: expected with"),
        ({"statistic": "epochs_to_reach"}, "study.threshold: expected with"),
        ({"statistic": "epochs_to_reach", "threshold": 0.5, "metric": "test/top1"}, "measured once"),
        ({"arms": {"deep": {"label": "", "members": 2}}, "expect": []}, r"study\.arms\.deep\.members=2: .* are 3"),
        ({"arms": {"deep": {"label": "", "evaluate": []}}, "expect": [], "metric": "train/top1"}, "one figure of val"),
        ({"name": "../up"}, r"study\.name=\.\./up"),
    ],
)
def test_a_mistake_is_told_with_its_key(asked: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        study_of(asked, **changes)


def test_the_factor_multiplies_the_arms(asked: dict[str, Any]) -> None:
    study = study_of(asked, factor=FACTOR)
    assert [study.label(cell) for cell in study.cells] == [
        f"{arm} · learning_rate {value}" for arm in ("deep", "flat") for value in (0.1, 0.3)
    ]
