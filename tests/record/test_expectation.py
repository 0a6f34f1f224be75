from pathlib import Path
from typing import Any

import pytest

from convatlas.config.composition import check_config, compose
from convatlas.errors import UserError
from convatlas.record.expectation import compare
from convatlas.record.groups import group_runs
from convatlas.record.reader import RunRecord
from convatlas.training.plan import TYPES


@pytest.mark.parametrize(
    ("metric", "value", "tolerance", "verdict"),
    [
        ("test/top1", 0.84, 0.02, "as expected"),
        ("test/top1", 0.80, 0.02, "better"),
        ("test/top1", 0.90, 0.02, "worse"),
        ("test/loss", 0.60, 0.05, "better"),
        ("test/loss", 0.40, 0.05, "worse"),
        ("test/top1", 0.90, None, ""),
        ("test/top5", 0.90, 0.02, "no result yet"),
    ],
)
def test_the_mean_over_seeds_is_judged_by_the_recipe(
    metric: str, value: float, tolerance: float | None, verdict: str
) -> None:
    expected = [{"metric": metric, "value": value, "source": "table 6", "tolerance": tolerance}]
    groups = group_runs([record(seed, top1, expected) for seed, top1 in enumerate((0.83, 0.87))])
    (row,) = compare(groups)
    assert row.verdict == verdict


def record(seed: int, top1: float, expected: list[dict[str, Any]]) -> RunRecord:
    return RunRecord(
        path=Path(f"a-s{seed}"),
        config={"seed": seed, "expected": expected},
        provenance={},
        summary={"test": {"test/loss": 0.5, "test/top1": top1}},
        state="finished",
        series={},
        torn=False,
        evaluation_files=(),
    )


@pytest.mark.parametrize("entry", ["{metric: test/top1}", "{metric: test/top1, value: high, source: a}"])
def test_a_malformed_expectation_is_refused_before_training(entry: str) -> None:
    with pytest.raises(UserError, match=r"^expected=.*: expected a list of mappings with metric, value, source, tol"):
        check_config(compose("train", [f"expected=[{entry}]"]), TYPES)
