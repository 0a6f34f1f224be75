"""The sections of a page about one run: headline, remarks on its record, and provenance."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import yaml

from convatlas.record.quantities import duration_text, metric_label, metric_text, short_count
from convatlas.record.reader import RunRecord, number
from convatlas.report.views.tables import parameters, training_seconds

LATEST = 4
"""Most metrics at the top of the page of a run without a result: training loss and validation metrics."""

Tile = tuple[str, str, str]
"""A figure at the top of a page: label, value, remark."""


def about(run: RunRecord) -> str:
    """Network, data, seed and times in one line."""
    data, model, summary = (run.config.get("data") or {}, run.config.get("model") or {}, run.summary)
    seed = run.config.get("seed")
    parts = [
        model.get("name"),
        data.get("name"),
        None if seed is None else f"seed {seed}",
        f"started {_moment(summary['started'])}" if summary.get("started") else None,
        f"ended {_moment(summary['ended'])}" if summary.get("ended") else None,
    ]
    return " · ".join(str(part) for part in parts if part)


def headline(run: RunRecord) -> list[Tile]:
    """The tiles at the top of the page."""
    summary = run.summary
    tiles = [(metric_label(name), metric_text(name, value), "") for name, value in run.results.items()]
    best = summary.get("best")
    if best:
        remark = f"at step {best['step']:,}" if best.get("step") is not None else ""
        label = f"Best {metric_label(best['metric'], capital=False)}"
        tiles.append((label, metric_text(best["metric"], best["value"]), remark))
    else:
        tiles += _latest(run)
    if summary.get("epochs") is not None:
        remark = f"{summary['steps']:,} steps" if summary.get("steps") is not None else ""
        tiles.append(("Epochs", f"{summary['epochs']:,}", remark))
    if (seconds := training_seconds(run)) is not None:
        tiles.append(("Training time", duration_text(seconds), ""))
    if (count := parameters(run)) is not None:
        tiles.append(("Parameters", short_count(count), f"{count:,}"))
    return tiles


def _latest(run: RunRecord) -> list[Tile]:
    """Tiles with the progress of a run without a result."""
    if not run.series:
        return []
    newest = max(run.series.values(), key=lambda series: series.steps[-1])
    tiles = [("Step", f"{newest.steps[-1]:,}", f"epoch {newest.epochs[-1]}")]
    names = [name for name in sorted(run.series) if name == "train/loss" or name.startswith("val/")]
    for name in names[:LATEST]:
        series = run.series[name]
        label = f"Latest {metric_label(name, capital=False)}"
        tiles.append((label, metric_text(name, series.last), f"at step {series.steps[-1]:,}"))
    return tiles


def notes(run: RunRecord) -> list[str]:
    """Remarks on the record: non-finite values and an incomplete last line."""
    found = []
    for name, series in sorted(run.series.items()):
        if series.first_gap is not None:
            count = int(series.gaps.sum())
            values = "value" if count == 1 else "values"
            found.append(f"{name} has {count:,} non-finite {values} (first at step {series.first_gap:,}), left out.")
    if run.torn:
        found.append(
            "The last line of metrics.jsonl is incomplete and was left out: the run was writing, or was killed."
        )
    return found


def origin(run: RunRecord) -> dict[str, Any]:
    """Configuration, provenance, uncommitted changes and start-up times, as text."""
    provenance = dict(run.provenance)
    git = dict(provenance.get("git") or {})
    diff = git.pop("diff", "")
    if git:
        provenance["git"] = git
    startup = {name: seconds for name, seconds in run.summary.get("startup_seconds", {}).items() if number(seconds)}
    return {
        "config": _yaml(run.config),
        "provenance": _yaml(provenance) if provenance else "",
        "commit": f"{git['commit'][:10]}{', with uncommitted changes' if git.get('dirty') else ''}" if git else "",
        "diff": diff,
        "startup": startup,
        "startup_longest": max(startup.values(), default=0),
    }


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100)


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")
