from pathlib import Path
from typing import Any

import pytest

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.studies.plan import StudyRun, plan_study
from convatlas.utils.files import dumps
from tests.studies.conftest import study_of


def test_an_arm_whose_images_are_missing_is_named(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^study\.arms\.deep: data\.root=.*gone: no such folder"):
        plan_study(study_of(asked), ["data=imagefolder", f"data.root={tmp_path / 'gone'}"])


@pytest.mark.parametrize(
    ("reason", "diverged"),
    [
        ("DivergedError: train/loss is nan at step 3", True),
        ("UserError: data.root=training diverged: cannot be read", False),
    ],
)
def test_a_run_diverged_if_its_summary_names_the_error(reason: str, diverged: bool, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(dumps({"state": "failed", "reason": reason}), encoding="utf-8")
    assert StudyRun(RunDirectory(tmp_path), ()).diverged == diverged
