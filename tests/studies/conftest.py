"""What the tests of studies share."""

from typing import Any

import pytest

from convatlas.studies.design import Study, read_study
from tests.report.conftest import browser, make_run  # noqa: F401  fixtures


@pytest.fixture
def asked() -> dict[str, Any]:
    """The keys of a study of two arms."""
    return {
        "name": "depth",
        "question": "Is <b>deep</b> better?",
        "arms": {"deep": {"label": "deep"}, "flat": {"label": "flat"}},
        "seeds": [0, 1, 2],
        "metric": "val/top1",
        "expect": [{"better": "deep", "worse": "flat", "source": "a paper"}],
    }


def study_of(asked: dict[str, Any], **changes: Any) -> Study:
    return read_study(asked | changes)
