"""The tables of a study as plain data, shown on the terminal, the page and in Markdown."""

from collections.abc import Mapping

from convatlas.record.groups import short_key, value_text
from convatlas.record.quantities import metric_label, metric_text, spread_text
from convatlas.report.views.tables import Table, TableCell, TableRow
from convatlas.studies.design import Study
from convatlas.studies.outcome import ArmComparison, Result, StudyOutcome


def results_table(outcome: StudyOutcome, groups: Mapping[str, int]) -> Table:
    """The result of each arm at each value of the factor: mean ± standard deviation and number of figures.

    Args:
        outcome: The outcome.
        groups: Positions of the groups of runs on the page, by label; empty for the terminal.
    """
    study, factor = outcome.study, outcome.study.factor
    published = {figure.arm: figure for figure in study.published}
    columns = ["Arm", *([short_key(factor.key)] if factor else []), "n", figure_label(study)]
    columns += ["Published", "Source"] if published else []
    table = Table(columns, [False, *([True] if factor else []), True, True, True, False][: len(columns)])
    marked = factor is not None and factor.select == "best"
    for result in outcome.results:
        cells = [TableCell(study.arms[result.cell.arm].label)]
        if factor:
            value = result.cell.value
            cells.append(TableCell(value_text(value), float(value) if isinstance(value, int | float) else None))
        cells.append(TableCell(f"{len(result.values)} of {result.expected}", len(result.values)))
        cells.append(
            TableCell(result_text(study, result), result.mean, marked and result.chosen and bool(result.values))
        )
        if published:
            figure = published.get(result.cell.arm) if result.chosen else None
            cells.append(TableCell("" if figure is None else number_text(study, figure.value)))
            cells.append(TableCell("" if figure is None else figure.source))
        table.rows.append(TableRow(cells, groups.get(result.label)))
    return table


def findings_table(outcome: StudyOutcome) -> Table:
    """Each expectation with the paired difference and the verdict."""
    study = outcome.study
    ranked = any(finding.test and finding.test.wilcoxon is not None for finding in outcome.findings)
    numbers = ["n", "Difference", "95 % interval", "p", "p (Holm)", *(["p (Wilcoxon)"] if ranked else [])]
    table = Table(["Expected", "Verdict", *numbers, "Source"], [False, False, *(True for _ in numbers), False])
    for finding in outcome.findings:
        test = finding.test
        cells = [
            TableCell(expectation_text(study, finding)),
            TableCell(finding.verdict),
            TableCell(str(len(test.differences)) if test else "0"),
            TableCell(difference_text(study, test.mean) if test else "–", test.mean if test else None),
            TableCell(interval_text(study, finding)),
            TableCell(probability_text(test.p if test else None) + (" (sign)" if test and test.test == "sign" else "")),
            TableCell(probability_text(finding.adjusted)),
            *([TableCell(probability_text(test.wilcoxon if test else None))] if ranked else []),
            TableCell(finding.direction.source),
        ]
        table.rows.append(TableRow(cells))
    return table


def figure_label(study: Study) -> str:
    """The name of the figure that is compared."""
    metric = metric_label(study.metric, capital=False)
    if study.statistic == "epochs_to_reach":
        relation = "≥" if study.mode == "max" else "≤"
        return f"Epochs until {metric} {relation} {metric_text(study.metric, study.threshold)}"
    return metric_label(study.metric) if study.statistic == "final" else f"Best {metric}"


def number_text(study: Study, value: float) -> str:
    """A figure of a run as text."""
    return f"{value:.2f}" if study.statistic == "epochs_to_reach" else metric_text(study.metric, value)


def result_text(study: Study, result: Result) -> str:
    """Mean ± standard deviation, as a bound if a threshold was not always reached."""
    if result.mean is None:
        return "–"
    if result.reached == 0:
        return f"> {result.mean:g}"
    if study.statistic != "epochs_to_reach":
        return spread_text(study.metric, result.mean, result.deviation)
    text = f"{result.mean:.2f}" + ("" if result.deviation is None else f" ± {result.deviation:.2f}")
    complete = result.reached == len(result.values)
    return text if complete else f"≥ {text}, {result.reached} of {len(result.values)} reached it"


def expectation_text(study: Study, finding: ArmComparison) -> str:
    """The expectation as text, with the value of the factor."""
    both = f"{study.arms[finding.direction.better].label} better than {study.arms[finding.direction.worse].label}"
    if study.factor is None:
        return both
    if finding.setting is not None:
        return f"{both} at {study.setting_label(finding.better.cell)}"
    chosen = (value_text(result.cell.value) for result in (finding.better, finding.worse))
    return f"{both}, each at its best {short_key(study.factor.key)}: {', '.join(chosen)}"


def difference_text(study: Study, value: float) -> str:
    """A difference with its sign; a difference of percentages is in points."""
    return f"{'+' * (value >= 0)}{number_text(study, value)}".replace(" %", " points")


def interval_text(study: Study, finding: ArmComparison) -> str:
    """The confidence interval of a difference as text."""
    if finding.test is None or finding.test.low is None or finding.test.high is None:
        return "–"
    low, high = difference_text(study, finding.test.low), difference_text(study, finding.test.high)
    return f"{low.removesuffix(' points')} to {high}"


def probability_text(p: float | None) -> str:
    """A probability with two significant digits."""
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"
