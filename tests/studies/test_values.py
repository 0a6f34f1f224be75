import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convatlas.errors import UserError
from convatlas.record.reader import RunRecord
from convatlas.record.series import series_of
from convatlas.studies.values import Value, value_of_evaluation, value_of_run
from tests.studies.conftest import study_of

REACH = {"statistic": "epochs_to_reach", "threshold": 0.75}


def record(values: list[float], test: dict[str, Any] | None = None, per_epoch: int = 1) -> RunRecord:
    steps = np.arange(1, len(values) + 1)
    series = series_of(steps, (steps - 1) // per_epoch, steps.astype(float), np.array(values))
    return RunRecord(
        path=Path("run"),
        config={},
        provenance={},
        summary={"epochs": len(values) // per_epoch, "test": test or {}},
        state="finished",
        series={"val/top1": series},
        torn=False,
        evaluation_files=(),
    )


@pytest.mark.parametrize(
    ("statistic", "mode", "value"), [("final", "max", 0.6), ("best", "max", 0.9), ("best", "min", 0.2)]
)
def test_the_last_value_or_the_best(asked: dict[str, Any], statistic: str, mode: str, value: float) -> None:
    study = study_of(asked, statistic=statistic, mode=mode)
    assert value_of_run(record([0.2, 0.9, 0.6]), study) == Value(value)


def test_the_reported_split_is_in_the_summary(asked: dict[str, Any]) -> None:
    study = study_of(asked, metric="test/top1")
    assert value_of_run(record([0.1], {"test/top1": 0.7}), study) == Value(0.7)
    assert value_of_run(record([0.1], {"test/top1": "NaN"}), study) is None
    assert value_of_evaluation({"metrics": {"test/top1": 0.8}}, study) == Value(0.8)


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        ([0.5, 0.7, 0.8, 0.6, 0.9], "max", Value(2.5)),  # halfway from the second epoch's end to the third's
        ([0.5, 0.75], "max", Value(2.0)),
        ([0.8, 0.9], "max", Value(1.0)),
        ([0.5, 0.6, 0.7], "max", Value(3.0, reached=False)),
        ([0.9, 0.8, 0.7], "min", Value(2.5)),
        ([0.85, math.inf, 0.65], "min", Value(2.0)),  # what is not finite is left out
    ],
)
def test_epochs_until_a_threshold_is_first_crossed(
    asked: dict[str, Any], values: list[float], mode: str, expected: Value
) -> None:
    found = value_of_run(record(values), study_of(asked, mode=mode, **REACH))
    assert found is not None
    assert found.value == pytest.approx(expected.value)
    assert found.reached == expected.reached


def test_of_several_values_in_an_epoch_its_last_counts(asked: dict[str, Any]) -> None:
    found = value_of_run(record([0.9, 0.5, 0.1, 0.8], per_epoch=2), study_of(asked, **REACH))
    assert found is not None
    assert found.value == pytest.approx(1 + 0.25 / 0.3)


def test_a_metric_that_a_run_lacks_is_told_with_those_it_has(asked: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"study\.metric=val/loss: run has no such metric; it has val/top1"):
        value_of_run(record([0.1]), study_of(asked, metric="val/loss"))
    with pytest.raises(UserError, match=r"study\.metric=val/loss: an evaluation of an arm has only test/top1"):
        value_of_evaluation({"metrics": {"test/top1": 0.8}}, study_of(asked, metric="val/loss"))
