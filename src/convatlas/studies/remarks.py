"""Write sentences about the method of a study and about the limits of its results."""

from convatlas.record.groups import short_key, value_text
from convatlas.studies.design import Study
from convatlas.studies.outcome import StudyOutcome
from convatlas.studies.statistics import CONFIDENCE, LEVEL, WILCOXON_FROM


def method(outcome: StudyOutcome) -> list[str]:
    """Explain how figures and verdicts are computed."""
    study = outcome.study
    tested = sum(finding.adjusted is not None for finding in outcome.findings)
    said = ["Mean ± standard deviation (N − 1) over the seeds; n counts the figures that there are."]
    if outcome.findings:
        said.append(
            "A difference is between figures of the same seed, the arm that should be better minus the other one, with "
            f"Student's {100 * CONFIDENCE:.0f} % interval of its mean. p is that of the two-sided paired t-test. The "
            f"verdict goes by p after Holm's correction for the {tested} comparison{'s' * (tested != 1)} of this "
            f"study, below {LEVEL}; the interval is not corrected. From {WILCOXON_FROM} pairs on, p of the Wilcoxon "
            "signed-rank test stands beside it. Where all differences are equal, p is the exact sign test's."
        )
    if any(arm.members > 1 for arm in study.arms.values()):
        said.append("An ensemble is one figure; it is paired with the mean of the other arm's figures of its seeds.")
    if study.statistic == "epochs_to_reach":
        said.append(
            "Epochs are counted until the curve first crosses the threshold, linear between two epochs. A run that "
            "never does is counted with all the epochs that it had, so that its mean is a lower bound; differences "
            "are then of the epochs that all runs of both arms had."
        )
    if study.factor is not None and study.factor.select == "best":
        said.append(
            f"Each arm is judged at the {short_key(study.factor.key)} with the best mean over the same seeds that are "
            "shown, bold in the table: its figure is optimistic, the more so the more values were tried."
        )
    return said


def notes(outcome: StudyOutcome) -> list[str]:
    """List what is missing from the results, and arms whose best value may lie outside the tried range."""
    found = []
    missing = [result for result in outcome.results if len(result.values) < result.expected]
    for result in missing:
        found.append(f"{result.label}: {len(result.values)} of {result.expected} figures are there.")
    return found + _edges(outcome.study, outcome)


def _edges(study: Study, outcome: StudyOutcome) -> list[str]:
    """Name arms whose best value of the factor is the smallest or largest one tried."""
    factor = study.factor
    if factor is None or factor.select != "best" or len(factor.values) < 3:
        return []
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in factor.values):
        return []
    low, high = min(map(float, factor.values)), max(map(float, factor.values))
    return [
        f"{study.arms[result.cell.arm].label}: its best {short_key(factor.key)}, {value_text(result.cell.value)}, is "
        "at the edge of those tried; a better one may lie beyond."
        for result in outcome.results
        if result.chosen and result.values and result.cell.value in (low, high)
    ]
