from pathlib import Path

import pytest

from convatlas.config.composition import compose
from convatlas.data.module import ImageDataModule
from convatlas.errors import UserError
from convatlas.training.plan import plan_run


@pytest.mark.parametrize("opened", [None, {}])
def test_missing_images_are_a_user_error(opened: dict[str, ImageDataModule] | None, tmp_path: Path) -> None:
    config = compose("train", ["data=imagefolder", f"data.root={tmp_path / 'gone'}"])
    with pytest.raises(UserError, match=r"^data\.root=.*gone: no such folder"):
        plan_run(config, opened)
