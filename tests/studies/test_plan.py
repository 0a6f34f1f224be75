from pathlib import Path
from typing import Any

import pytest

from convatlas.errors import UserError
from convatlas.studies.plan import plan_study
from tests.studies.conftest import study_of


def test_an_arm_whose_images_are_missing_is_named(asked: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^study\.arms\.deep: data\.root=.*gone: no such folder"):
        plan_study(study_of(asked), ["data=imagefolder", f"data.root={tmp_path / 'gone'}"])
