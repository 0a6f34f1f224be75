from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from convatlas.record.reader import RunRecord
from convatlas.report.views.reproduction import compare_records, compare_runs

LINES: list[dict[str, Any]] = [
    {"step": 10, "epoch": 0, "time": 1.0, "train/loss": 2.0, "train/learning_rate": 0.1, "train/data_wait": 0.5},
    {"step": 20, "epoch": 0, "time": 2.0, "train/loss": 1.0, "train/images_per_second": 700.0},
    {"step": 20, "epoch": 0, "time": 3.0, "val/loss": "NaN"},
]


def changed(line: int, **values: Any) -> list[dict[str, Any]]:
    """The lines, those values of one of them changed; ``/`` is written ``_``."""
    lines = [dict(entry) for entry in LINES]
    lines[line] |= {name.replace("_", "/", 1): value for name, value in values.items()}
    return lines


def test_equal_values_are_bit_identical_whatever_the_clock_says() -> None:
    other = changed(1, train_images_per_second=1.0, time=99.0)
    agreement = compare_records(LINES, other, 0.0)
    assert agreement.values == 4
    assert agreement.sentence(agreement.verdict(equal_weights=True)) == "bit-identical"
    assert agreement.verdict(equal_weights=None) == "bit-identical"


def test_equal_values_of_unequal_weights_are_not_called_bit_identical() -> None:
    agreement = compare_records(LINES, LINES, 0.0)
    assert agreement.verdict(equal_weights=False) == "within tolerance"
    assert "weights are not" in agreement.sentence("within tolerance")


def test_the_largest_difference_within_the_tolerance_is_told_with_its_place() -> None:
    other = changed(0, train_loss=2.00002)
    other[1]["train/loss"] = 1.0005
    agreement = compare_records(LINES, other, 0.001)
    assert agreement.verdict(equal_weights=False) == "within tolerance"
    sentence = agreement.sentence("within tolerance")
    assert sentence.endswith("at step 20: train/loss recorded 1.0, now 1.0005 (relative difference 0.0005)")


def test_the_first_step_beyond_the_tolerance_is_where_a_record_differs() -> None:
    other = changed(0, train_loss=2.00002)
    other[1]["train/loss"] = 1.5
    agreement = compare_records(LINES, other, 0.001)
    assert agreement.verdict(equal_weights=False) == "different"
    assert agreement.sentence("different").startswith("different from step 20: train/loss recorded 1.0, now 1.5")
    assert compare_records(LINES, other, 0.0).sentence("different").startswith("different from step 10")


@pytest.mark.parametrize("value", [1.0, "Infinity", None])
def test_a_number_where_none_was_is_beyond_every_tolerance(value: object) -> None:
    agreement = compare_records(LINES, changed(2, val_loss=value), 1e9)
    assert agreement.first is not None
    assert (agreement.first.step, agreement.first.metric) == (20, "val/loss")


def test_a_step_that_only_one_record_has_is_a_difference() -> None:
    agreement = compare_records(LINES, LINES[:1], 1e9)
    assert agreement.sentence("different") == "different from step 20: train/loss recorded 1.0, now None"


def run(start: Mapping[str, str] | None, top1: float = 0.5) -> RunRecord:
    return RunRecord(
        path=Path("a-s0"),
        config={},
        provenance={} if start is None else {"start": start},
        summary={"steps": 20, "test": {"test/top1": top1}},
        state="finished",
        series={},
        torn=False,
        evaluation_files=(),
    )


def test_other_initial_weights_are_a_difference_from_step_0() -> None:
    start = {"initial_weights": "aa", "first_order": "bb"}
    agreement = compare_runs(run(start), run(start | {"initial_weights": "cc"}), [LINES, LINES], 1e9)
    assert agreement.sentence("different") == "different from step 0: initial_weights recorded aa, now cc"


def test_a_record_without_the_initial_state_is_compared_by_its_curves() -> None:
    agreement = compare_runs(run(None), run({"initial_weights": "aa"}), [LINES, LINES], 0.0)
    assert agreement.first is None


def test_other_final_metrics_are_a_difference_even_where_the_curves_agree() -> None:
    agreement = compare_runs(run(None), run(None, top1=0.6), [LINES, LINES], 0.001)
    assert agreement.sentence("different").startswith("different from step 20: final test/top1 recorded 0.5, now 0.6")
