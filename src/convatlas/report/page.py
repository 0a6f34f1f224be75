"""Build the report of one or many runs: its sections, its figures and the HTML page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline.offline import get_plotlyjs

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.record.groups import (
    Group,
    differing_keys,
    flatten,
    group_runs,
    metric_names,
    value_text,
)
from convatlas.record.quantities import lower_is_better
from convatlas.record.reader import RunRecord
from convatlas.report.figures.curves import COLOURS, Figure, buckets_per_curve, panel_figure
from convatlas.report.figures.evaluation_figures import NAMED_CLASSES
from convatlas.report.figures.hyperparameters import parallel_coordinates
from convatlas.report.figures.panels import Dashboard
from convatlas.report.markdown import markdown
from convatlas.report.markup import TEMPLATES, script_json
from convatlas.report.views.evaluation import evaluation_view
from convatlas.report.views.run_view import about, headline, notes, origin
from convatlas.report.views.tables import SETTINGS, expectations_table, results_table, runs_table
from convatlas.utils.files import dumps, write_atomic

DETAILED = 4
"""Maximum number of runs whose evaluation and origin a page shows. If there are more runs, the best are shown."""
SECTIONS = ("header", "results", "training", "hyperparameters", "runs", "evaluations", "origin")
"""The sections of a page, top to bottom. Each is a template of this name."""


@dataclass(frozen=True)
class Report:
    """The content of a page about runs.

    Attributes:
        title: The title of the page.
        sections: The HTML of each section by its name in ``SECTIONS``; it may be empty.
        figures: The figures by the ids of their HTML elements.
        runs: For each run its group and the text that the filter searches.
        markdown: The tables as Markdown.
    """

    title: str
    sections: dict[str, Markup]
    figures: dict[str, Figure]
    runs: list[dict[str, Any]]
    markdown: str


def build_report(records: Sequence[RunRecord], dashboard: Dashboard, damages: Sequence[str] = ()) -> Report:
    """Build the report of runs. Parts that a running run has not written yet are left out.

    Args:
        records: The runs; there may be none.
        dashboard: The panels of curves.
        damages: Errors of runs that cannot be read and are left out.

    Returns:
        The report. A damaged evaluation is named in the header.
    """
    groups = group_runs(records)
    runs = [run for group in groups for run in group.runs]
    figures: dict[str, Figure] = {}
    panels = dashboard.panels_for(name for run in runs for name in run.series)
    limit = buckets_per_curve(list(panels.values()), groups)
    for key, panel in panels.items():
        figures[f"curve-{key}"] = panel_figure(panel, groups, limit)
    if (hyperparameters := parallel_coordinates(groups)) is not None:
        figures["hyperparameters"] = hyperparameters
    damages = [f"{damage}; the run is left out" for damage in damages]
    details = [_details(i, runs[i], _group_of(i, groups), figures, damages) for i in _detailed(runs)]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs" if runs else dashboard.title
    context = {
        "title": title,
        "groups": [
            {"label": group.label, "colour": _colour(position), "count": len(group.runs)}
            for position, group in enumerate(groups)
        ],
        "runs": [{"label": run.run_id, "state": run.state, "about": about(run)} for run in runs],
        "states": Counter(run.state for run in runs),
        "headline": headline(runs[0]) if len(runs) == 1 else [],
        "notes": [
            *damages,
            *(f"{run.run_id}: {note}" if len(runs) > 1 else note for run in runs for note in notes(run)),
        ],
        "results": results_table(groups),
        "expectations": expectations_table(groups),
        "panels": [{"id": f"curve-{key}", "title": panel.title} for key, panel in panels.items()],
        "hyperparameters": hyperparameters is not None,
        "run_table": runs_table(groups),
        "hidden_settings": max(0, len(differing_keys(groups)) - SETTINGS),
        "details": details,
        "named_classes": NAMED_CLASSES,
    }
    sections = {
        name: Markup(TEMPLATES.get_template(f"sections/{name}.html.j2").render(context))  # noqa: S704  a template's
        for name in SECTIONS
    }
    texts = [{"group": _group_of(index, groups), "text": filter_text(run)} for index, run in enumerate(runs)]
    return Report(title, sections, figures, texts, markdown(title, groups, damages))


def render_page(report: Report, refresh: float | None = None, state: Mapping[str, Any] | None = None) -> str:
    """Render the report as one self-contained HTML page.

    Args:
        report: The report.
        refresh: Seconds between two requests of a live page to its server; None for a static page.
        state: Digests of the parts, by which a live page detects changes.
    """
    data = {
        "figures": report.figures if refresh is None else {},
        "runs": report.runs,
        "refresh": refresh,
        "state": state,
    }
    return TEMPLATES.get_template("report.html.j2").render(
        title=report.title,
        sections=report.sections,
        live=refresh is not None,
        many=len(report.runs) > 1,
        plotly=get_plotlyjs(),
        data=script_json(dumps(data)),
    )


def write_report(
    records: Sequence[RunRecord], output: Path, dashboard: Dashboard, damages: Sequence[str] = ()
) -> list[Path]:
    """Write the page of runs, and beside it its tables as Markdown.

    Args:
        records: The runs, at least one.
        output: Path of the page; its folder is created.
        dashboard: The panels of curves.
        damages: As in ``build_report``.

    Returns:
        The page and the Markdown file.
    """
    report = build_report(records, dashboard, damages)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, render_page(report))
    tables = output.with_suffix(".md")
    write_atomic(tables, report.markdown)
    return [output, tables]


def filter_text(run: RunRecord) -> str:
    """Return the text that the filter searches, in lower case: run id, name, state and ``key:value`` of settings."""
    settings = " ".join(f"{key}:{value_text(value)}" for key, value in flatten(run.config).items())
    return f"{run.run_id} {run.name} state:{run.state} {settings}".lower()


def _detailed(runs: Sequence[RunRecord]) -> list[int]:
    """Return the positions of the runs to show in detail: all, or those with the best values of the first metric."""
    if len(runs) <= DETAILED:
        return list(range(len(runs)))
    names = metric_names(runs)
    ranked = [
        (value, i) for i, run in enumerate(runs) if names and isinstance(value := run.results.get(names[0]), float)
    ]
    ranked.sort(reverse=bool(names) and not lower_is_better(names[0]))
    return [i for _, i in ranked[:DETAILED]]


def _details(index: int, run: RunRecord, group: int, figures: dict[str, Figure], damages: list[str]) -> dict[str, Any]:
    try:
        evaluations = run.evaluations()
    except UserError as error:
        evaluations = {}
        damages.append(str(error))
    return {
        "label": run.run_id,
        "about": about(run),
        "colour": _colour(group),
        "evaluations": [
            evaluation_view(f"run-{index}-{name}", RunDirectory(run.path).evaluation, evaluation, figures)
            for name, evaluation in evaluations.items()
        ],
        **origin(run),
    }


def _group_of(index: int, groups: Sequence[Group]) -> int:
    positions = [position for position, group in enumerate(groups) for _ in group.runs]
    return positions[index]


def _colour(position: int) -> str:
    return f"var(--series-{position % COLOURS})"
