from typing import Any

import pytest

from convatlas.studies.design import Cell, Study
from convatlas.studies.outcome import StudyOutcome, judge
from convatlas.studies.remarks import notes
from convatlas.studies.tables import findings_table, results_table
from convatlas.studies.values import Value
from tests.studies.conftest import study_of

Figures = dict[tuple[int, ...], Value]


def singles(*values: float | None) -> Figures:
    return {(seed,): Value(value) for seed, value in enumerate(values) if value is not None}


def judged(study: Study, deep: Figures, flat: Figures) -> StudyOutcome:
    return judge(study, {Cell("deep"): deep, Cell("flat"): flat})


@pytest.mark.parametrize(
    ("deep", "flat", "verdict"),
    [
        ((0.90, 0.91, 0.92), (0.80, 0.82, 0.81), "as expected"),
        ((0.80, 0.82, 0.81), (0.90, 0.91, 0.92), "opposite"),
        ((0.90, 0.70, 0.92), (0.80, 0.82, 0.81), "not distinguishable"),
        ((0.90, None, None), (0.80, 0.82, 0.81), "right direction, one seed"),
        ((0.70, None, None), (0.80, 0.82, 0.81), "wrong direction, one seed"),
        ((0.90, None, None), (None, 0.82, 0.81), "no result yet"),
        ((0.90, 0.91, 0.92), (0.90, 0.91, 0.92), "not distinguishable"),
    ],
)
def test_the_verdict(asked: dict[str, Any], deep: Any, flat: Any, verdict: str) -> None:
    outcome = judged(study_of(asked), singles(*deep), singles(*flat))
    assert outcome.findings[0].verdict == verdict
    less = judged(study_of(asked, mode="min"), singles(*flat), singles(*deep))  # as errors: the other way round
    assert less.findings[0].verdict == verdict


def test_only_the_seeds_that_both_have_are_paired(asked: dict[str, Any]) -> None:
    outcome = judged(study_of(asked), singles(0.9, 0.8, 0.7), singles(None, 0.6, 0.4))
    assert outcome.findings[0].test is not None
    assert outcome.findings[0].test.differences == pytest.approx((0.2, 0.3))
    assert notes(outcome) == ["flat: 2 of 3 figures are there."]


def test_a_difference_of_percentages_is_in_points(asked: dict[str, Any]) -> None:
    outcome = judged(study_of(asked, metric="test/top1"), singles(0.90, 0.93, 0.98), singles(0.80, 0.80, 0.80))
    (row,) = findings_table(outcome).rows
    assert [cell.text for cell in row.cells[3:5]] == ["+13.67 points", "+3.63 to +23.71 points"]


def test_verdicts_are_corrected_for_all_comparisons(asked: dict[str, Any]) -> None:
    both = [{"better": "deep", "worse": "flat", "source": ""}] * 2
    deep, flat = singles(0.90, 0.93, 0.98), singles(0.80, 0.80, 0.80)
    alone = judged(study_of(asked), deep, flat).findings[0]
    twice = judged(study_of(asked, expect=both), deep, flat).findings[0]
    assert alone.test is not None
    assert alone.test.p is not None
    assert alone.test.p == alone.adjusted == pytest.approx(0.03, abs=0.01)
    assert twice.adjusted == pytest.approx(2 * alone.test.p)
    assert (alone.verdict, twice.verdict) == ("as expected", "not distinguishable")


FACTOR = {"key": "optimizer.learning_rate", "values": [0.1, 0.3, 1.0], "select": "best"}


def with_factor(study: Study) -> StudyOutcome:
    values = {
        Cell("deep", 0.1): singles(0.5, 0.6, 0.7),
        Cell("deep", 0.3): singles(0.7, 0.8, 0.9),
        Cell("deep", 1.0): singles(None, None, 0.99),  # two of three diverged
        Cell("flat", 0.1): singles(0.6, 0.6, 0.8),
        Cell("flat", 0.3): singles(0.4, 0.5, 0.6),
        Cell("flat", 1.0): singles(0.1, 0.1, 0.1),
    }
    return judge(study, values)


def test_each_arm_is_judged_at_its_own_best_value_of_those_that_did_not_diverge(asked: dict[str, Any]) -> None:
    outcome = with_factor(study_of(asked, factor=FACTOR))
    chosen = [result.cell for result in outcome.results if result.chosen]
    assert chosen == [Cell("deep", 0.3), Cell("flat", 0.1)]
    assert outcome.findings[0].test is not None
    assert outcome.findings[0].test.differences == pytest.approx((0.1, 0.2, 0.1))
    assert findings_table(outcome).rows[0].cells[0].text == (
        "deep better than flat, each at its best learning_rate: 0.3, 0.1"
    )
    assert "flat: its best learning_rate, 0.1, is at the edge of those tried; a better one may lie beyond." in notes(
        outcome
    )


def test_or_the_arms_are_compared_at_each_value(asked: dict[str, Any]) -> None:
    outcome = with_factor(study_of(asked, factor=FACTOR | {"select": "each"}))
    found = [(finding.setting, finding.verdict) for finding in outcome.findings]
    assert found == [
        (0.1, "not distinguishable"),
        (0.3, "not distinguishable"),  # all differences are equal: three signs say little
        (1.0, "right direction, one seed"),
    ]


def test_an_ensemble_is_paired_with_the_mean_of_its_seeds(asked: dict[str, Any]) -> None:
    arms = {"deep": {"label": "two", "members": 2}, "flat": {"label": "one"}}
    study = study_of(asked, arms=arms, seeds=[0, 1, 2, 3], metric="test/top1")
    pairs: Figures = {(0, 1): Value(0.9), (2, 3): Value(0.8)}
    test = judged(study, pairs, singles(0.6, 0.7, 0.5, 0.7)).findings[0].test
    assert test is not None
    assert test.differences == pytest.approx((0.25, 0.2))
    test = judged(study, pairs, singles(0.6, 0.7, None, 0.7)).findings[0].test
    assert test is not None
    assert test.differences == pytest.approx((0.25,))


def test_thresholds_that_were_not_reached_are_compared_over_the_common_epochs(asked: dict[str, Any]) -> None:
    study = study_of(asked, statistic="epochs_to_reach", threshold=0.5)
    never: Figures = {(0,): Value(20.0, False), (1,): Value(20.0, False), (2,): Value(18.0)}
    outcome = judged(study, singles(4.0, 5.5, 30.0), never)
    finding = outcome.findings[0]
    assert finding.test is not None
    assert finding.test.differences == pytest.approx((-16.0, -14.5, 2.0))  # 30 counts as 20
    texts = [row.cells[2].text for row in results_table(outcome, {}).rows]
    assert texts == ["13.17 ± 14.60", "≥ 19.33 ± 1.15, 1 of 3 reached it"]
    all_never: Figures = {(seed,): Value(20.0, False) for seed in range(3)}
    reached = judged(study, singles(4.0, 5.5, 5.0), all_never)
    assert reached.findings[0].verdict == "as expected"  # fewer epochs are better
    assert results_table(reached, {}).rows[1].cells[2].text == "> 20"
