from pathlib import Path

import pytest

from convatlas.errors import UserError
from convatlas.tracking.wandb import internals
from convatlas.training import lightning_internals
from convatlas.utils.internals import private


def test_a_private_attribute_that_is_missing_is_reported_with_the_supported_versions() -> None:
    assert private("text", "upper", "package>=2")() == "TEXT"
    with pytest.raises(UserError, match=r"str\._gone does not exist in the installed version; expected package>=2"):
        private("text", "_gone", "package>=2")


@pytest.mark.parametrize("supported", [lightning_internals.SUPPORTED, internals.SUPPORTED, "optuna>=5"])
def test_the_supported_versions_are_those_of_the_requirements(supported: str) -> None:
    assert f'"{supported}"' in (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
