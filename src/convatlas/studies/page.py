"""Write the outcome of a study as an HTML page, as Markdown and as data."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from convatlas.record.groups import Group, group_key, group_runs
from convatlas.record.reader import RunRecord
from convatlas.report.figures.curves import COLOURS, Figure
from convatlas.report.markdown import escape, table_text
from convatlas.report.markup import TEMPLATES
from convatlas.report.page import Report, filter_text, render_page
from convatlas.report.views.tables import runs_table
from convatlas.studies.design import Cell
from convatlas.studies.figures import curves, dots, over_factor
from convatlas.studies.outcome import StudyOutcome
from convatlas.studies.remarks import method, notes
from convatlas.studies.tables import figure_label, findings_table, results_table
from convatlas.utils.files import dumps, write_atomic

SECTIONS = ("question", "verdicts", "results", "training", "runs", "definition")
"""The sections of the page, top to bottom. Each is a template named ``study_…``."""


def write_study(
    outcome: StudyOutcome,
    runs: Mapping[Cell, Sequence[RunRecord]],
    command_line: Sequence[str],
    output: Path,
    damages: Sequence[str] = (),
) -> dict[str, Path]:
    """Write the outcome of a study.

    Args:
        outcome: The outcome.
        runs: The records of the runs of each cell that have begun.
        command_line: Overrides of ``train`` for all arms from the command line.
        output: The folder; it exists.
        damages: Errors of runs that cannot be read and are left out.

    Returns:
        ``page``, ``markdown``, ``data`` (everything as JSON), ``values`` (a line for each figure, CSV) and
        ``figures`` (Plotly JSON).
    """
    remarks = [*(f"{damage}; the run is left out" for damage in damages), *notes(outcome)]
    report = _report(outcome, runs, command_line, remarks)
    written = {
        "page": (output / "study.html", render_page(report)),
        "markdown": (output / "study.md", report.markdown),
        "data": (output / "study.json", dumps(as_data(outcome) | {"notes": remarks}, indent=2) + "\n"),
        "values": (output / "values.csv", _values(outcome)),
        "figures": (output / "figures.json", dumps(report.figures) + "\n"),
    }
    for path, text in written.values():
        write_atomic(path, text)
    return {name: path for name, (path, _) in written.items()}


def as_data(outcome: StudyOutcome) -> dict[str, Any]:
    """The outcome as built-in containers."""
    return {
        "study": asdict(outcome.study),
        "results": [
            {
                "arm": result.cell.arm,
                "label": result.label,
                "factor": result.cell.value,
                "chosen": result.chosen,
                "n": len(result.values),
                "mean": result.mean,
                "deviation": result.deviation,
                "reached": result.reached,
                "values": [{"seeds": list(seeds), **asdict(value)} for seeds, value in result.values.items()],
            }
            for result in outcome.results
        ],
        "findings": [
            {
                **asdict(finding.direction),
                "at": [finding.better.cell.value, finding.worse.cell.value],
                "test": None if finding.test is None else asdict(finding.test),
                "p_holm": finding.adjusted,
                "verdict": finding.verdict,
            }
            for finding in outcome.findings
        ],
        "method": method(outcome),
        "notes": notes(outcome),
    }


def _report(
    outcome: StudyOutcome,
    runs: Mapping[Cell, Sequence[RunRecord]],
    command_line: Sequence[str],
    remarks: Sequence[str],
) -> Report:
    study = outcome.study
    groups, positions = _groups(outcome, runs)
    judged = {positions.get(result.label) for result in outcome.results if result.chosen}
    drawn = [group if number in judged else replace(group, runs=()) for number, group in enumerate(groups)]
    figures: dict[str, Figure] = {}
    if study.factor is not None:
        figures["factor"] = over_factor(outcome, positions)
    if study.factor is None or study.factor.select == "best":
        figures["dots"] = dots(outcome, positions)
    shown = curves(study, drawn)
    figures |= {name: figure for name, (_, figure) in shown.items()}
    records = [run for group in groups for run in group.runs]
    context = {
        "study": study,
        "figure_label": figure_label(study),
        "command_line": " ".join(command_line),
        "verdicts": Counter(finding.verdict for finding in outcome.findings),
        "states": Counter(run.state for run in records),
        "groups": [
            {"label": group.label, "colour": f"var(--series-{position % COLOURS})", "count": len(group.runs)}
            for position, group in enumerate(groups)
        ],
        "curves_of": [position for position, group in enumerate(drawn) if group.runs],
        "runs": records,
        "method": method(outcome),
        "notes": remarks,
        "results": results_table(outcome, positions),
        "findings": findings_table(outcome),
        "panels": [{"id": name, "title": title} for name, (title, _) in shown.items()],
        "figures": figures,
        "run_table": runs_table(groups),
        "definition": yaml.safe_dump(asdict(study), sort_keys=False, allow_unicode=True, width=100),
    }
    sections = {
        name: Markup(TEMPLATES.get_template(f"sections/study_{name}.html.j2").render(context))  # noqa: S704  a template's
        for name in SECTIONS
    }
    texts = [
        {"group": position, "text": filter_text(run)} for position, group in enumerate(groups) for run in group.runs
    ]
    return Report(study.question, sections, figures, texts, _markdown(outcome, command_line, remarks))


def _groups(outcome: StudyOutcome, runs: Mapping[Cell, Sequence[RunRecord]]) -> tuple[list[Group], dict[str, int]]:
    """The runs that have begun, those that cells share once, and the position of its own for each cell's label."""
    settings = {group.key: group.settings for group in group_runs([run for found in runs.values() for run in found])}
    groups: list[Group] = []
    known: dict[str, int] = {}
    positions = {}
    for result in sorted(outcome.results, key=lambda result: not result.chosen):  # the colours are those of the arms
        if found := tuple(runs[result.cell]):
            key = group_key(found[0])
            if key not in known:
                known[key] = len(groups)
                groups.append(Group(key, result.label, found, settings[key]))
            positions[result.label] = known[key]
    return groups, positions


def _markdown(outcome: StudyOutcome, command_line: Sequence[str], remarks: Sequence[str]) -> str:
    study = outcome.study
    parts = [f"# {escape(study.question)}"]
    if command_line:
        parts.append(f"With {escape(' '.join(command_line))}.")
    if outcome.findings:
        parts += ["## Expected, and found", table_text(findings_table(outcome))]
    parts += ["## Figures", table_text(results_table(outcome, {})), *map(escape, method(outcome))]
    if remarks:
        parts += ["## Notes", "\n".join(f"- {escape(note)}" for note in remarks)]
    return "\n\n".join(parts) + "\n"


def _values(outcome: StudyOutcome) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "label", "factor", "seeds", "value", "reached"])
    for result in outcome.results:
        for seeds, value in result.values.items():
            cells = [result.cell.arm, result.label, result.cell.value, " ".join(map(str, seeds))]
            writer.writerow([*cells, value.value, value.reached])
    return file.getvalue()
