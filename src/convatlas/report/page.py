"""The report: one self-contained HTML page about one or several runs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from plotly.offline.offline import get_plotlyjs

from convatlas.jsonio import dumps, write_atomic
from convatlas.report.figures import (
    COLOURS,
    NAMED_CLASSES,
    Figure,
    class_accuracies,
    confusion_matrix,
    curves,
)
from convatlas.report.markup import TEMPLATES, image_file, metric_label, metric_text, script_json
from convatlas.report.masks import mask_view
from convatlas.report.run_record import RunRecord, number, read_run

CONFUSIONS = 15
"""Rows of the list of frequent confusions, which replaces the cell counts of a large matrix."""


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Write one HTML page about runs; it needs no network, no other file and no server.

    A run may be in progress: what it has not written yet is left out.

    Args:
        runs: Run directories, at least one.
        output: The file to write; its folder is made.

    Returns:
        ``output``.

    Raises:
        UserError: A path is not a run directory, or one of its files is damaged.
    """
    records = [read_run(path) for path in runs]
    labels = _labels(records)
    figures: dict[str, Figure] = {}
    panels = []
    for panel in curves(records, labels):
        figures[f"curve-{panel.quantity}"] = panel.figure
        panels.append({"id": f"curve-{panel.quantity}", "title": panel.title})
    views = [_view(index, run, labels[index], figures) for index, run in enumerate(records)]
    page = TEMPLATES.get_template("report.html.j2").render(
        runs=views,
        panels=panels,
        differences=_differences(records),
        comparison=_comparison(records),
        plotly=get_plotlyjs() if figures else "",
        figures=script_json(dumps(figures)),
        named_classes=NAMED_CLASSES,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, page)
    return output


def _labels(runs: Sequence[RunRecord]) -> list[str]:
    """The names, or the identities where two runs share a name."""
    count = Counter(run.name for run in runs)
    return [run.name if count[run.name] == 1 else run.run_id for run in runs]


def _view(index: int, run: RunRecord, label: str, figures: dict[str, Figure]) -> dict[str, Any]:
    provenance = dict(run.provenance)
    git = dict(provenance.get("git") or {})
    diff = git.pop("diff", "")
    if git:
        provenance["git"] = git
    startup = {name: seconds for name, seconds in run.summary.get("startup_seconds", {}).items() if number(seconds)}
    return {
        "label": label,
        "run_id": run.run_id,
        "state": run.state,
        "colour": f"var(--series-{index % COLOURS})",
        "about": [str(part) for part in _about(run) if part],
        "headline": _headline(run),
        "notes": _notes(run),
        "evaluations": [
            _evaluation(f"run-{index}-{name}", run.path / "evaluation", evaluation, figures)
            for name, evaluation in run.evaluations.items()
        ],
        "config": _yaml(run.config),
        "provenance": _yaml(provenance) if provenance else "",
        "commit": f"{git['commit'][:10]}{', with uncommitted changes' if git.get('dirty') else ''}" if git else "",
        "diff": diff,
        "startup": startup,
        "startup_longest": max(startup.values(), default=0),
    }


def _about(run: RunRecord) -> list[object]:
    data, model, summary = (run.config.get("data") or {}, run.config.get("model") or {}, run.summary)
    seed = run.config.get("seed")
    return [
        model.get("name"),
        data.get("name"),
        None if seed is None else f"seed {seed}",
        f"started {_moment(summary['started'])}" if summary.get("started") else None,
        f"ended {_moment(summary['ended'])}" if summary.get("ended") else None,
    ]


def _headline(run: RunRecord) -> list[tuple[str, str, str]]:
    """The figures at the top: label, value, remark."""
    summary = run.summary
    rows = [(metric_label(name), metric_text(name, value), "") for name, value in _test_metrics(run).items()]
    best = summary.get("best")
    if best:
        remark = f"at step {best['step']:,}" if best.get("step") is not None else ""
        rows.append(
            (f"Best {metric_label(best['metric'], capital=False)}", metric_text(best["metric"], best["value"]), remark)
        )
    else:
        rows += _latest(run)
    if summary.get("epochs") is not None:
        remark = f"{summary['steps']:,} steps" if summary.get("steps") is not None else ""
        rows.append(("Epochs", f"{summary['epochs']:,}", remark))
    if (seconds := _duration(run)) is not None:
        rows.append(("Training time", duration_text(seconds), ""))
    if (parameters := _parameters(run)) is not None:
        rows.append(("Parameters", _short(parameters), f"{parameters:,}"))
    return rows


def _latest(run: RunRecord) -> list[tuple[str, str, str]]:
    """How far a run without a result has come."""
    if not run.series:
        return []
    newest = max(run.series.values(), key=lambda series: series.steps[-1])
    rows = [("Step", f"{newest.steps[-1]:,}", f"epoch {newest.epochs[-1]}")]
    for name in ("train/loss", "val/loss", "val/top1", "val/mean_iou"):
        if name in run.series:
            series = run.series[name]
            value = metric_text(name, float(series.values[-1]))
            rows.append((f"Latest {metric_label(name, capital=False)}", value, f"at step {series.steps[-1]:,}"))
    return rows


def _test_metrics(run: RunRecord) -> dict[str, Any]:
    metrics = dict(run.summary.get("test") or run.evaluations.get("test", {}).get("metrics", {}))
    return {name: metrics[name] for name in sorted(metrics, key=lambda name: (name.endswith("loss"), name))}


def _parameters(run: RunRecord) -> int | None:
    parameters = run.summary.get("parameters", run.provenance.get("parameters"))
    return parameters if isinstance(parameters, int) else None


def _duration(run: RunRecord) -> float | None:
    seconds = number(run.summary.get("train_seconds"))
    if seconds is None and run.summary.get("started") and run.summary.get("ended"):
        began, ended = (datetime.fromisoformat(run.summary[key]) for key in ("started", "ended"))
        return (ended - began).total_seconds()
    return seconds


def _notes(run: RunRecord) -> list[str]:
    """What a reader must know about the record itself."""
    notes = []
    for name, series in sorted(run.series.items()):
        wrong = ~np.isfinite(series.values)
        if wrong.any():
            count, first = int(wrong.sum()), int(series.steps[wrong][0])
            values = "value" if count == 1 else "values"
            notes.append(f"{name} has {count:,} non-finite {values} (first at step {first:,}), shown as gaps.")
    if run.torn:
        notes.append(
            "The last line of metrics.jsonl is incomplete and was left out: the run was writing, or was killed."
        )
    return notes


def _evaluation(key: str, folder: Path, evaluation: Mapping[str, Any], figures: dict[str, Figure]) -> dict[str, Any]:
    view: dict[str, Any] = {
        "key": key,
        "split": evaluation.get("split", "test"),
        "protocol": (evaluation.get("protocol") or {}).get("name", "center_crop"),
        "num_samples": evaluation.get("num_samples"),
        "checkpoint": evaluation.get("checkpoint"),
        "metrics": [
            (metric_label(name), metric_text(name, value)) for name, value in evaluation.get("metrics", {}).items()
        ],
        "num_classes": len(evaluation.get("classes", ())),
        "confusions": [],
        "without_samples": 0,
    }
    view["masks"] = mask_view(key, folder, evaluation, figures)
    for kind in ("mistakes", "samples"):
        view[kind] = [_picture(folder, shown, evaluation["classes"]) for shown in evaluation.get(kind, ())]
    if evaluation.get("confusion_matrix"):
        figures[f"{key}-confusion"] = confusion_matrix(evaluation)
        view["confusions"] = _confusions(evaluation)
    if evaluation.get("per_class"):
        figures[f"{key}-classes"] = class_accuracies(evaluation)
        view["without_samples"] = sum(number(row["accuracy"]) is None for row in evaluation["per_class"])
    view["figures"] = [name for name in ("confusion", "classes") if f"{key}-{name}" in figures]
    return view


def _picture(folder: Path, shown: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "image": image_file(folder, shown["image"]),
        "path": shown["path"],
        "label": str(classes[shown["label"]]),
        "prediction": str(classes[shown["prediction"]]),
        "right": shown["label"] == shown["prediction"],
        "confidence": metric_text("top1", shown["confidence"], digits=1),
        "label_confidence": metric_text("top1", shown["label_confidence"], digits=1),
    }


def _confusions(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The most frequent confusions, for a matrix too large to read."""
    classes = evaluation["classes"]
    if len(classes) <= NAMED_CLASSES:
        return []
    counts = np.array(evaluation["confusion_matrix"], dtype=np.int64)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    rows = []
    for position in np.argsort(-counts, axis=None, kind="stable")[:CONFUSIONS].tolist():
        true, predicted = divmod(position, len(classes))
        count = int(counts[true, predicted])
        if count:
            share = metric_text("top1", count / int(totals[true]), digits=1)
            rows.append({"true": classes[true], "predicted": classes[predicted], "count": count, "share": share})
    return rows


def _comparison(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The table of several runs: columns, cells, and the best finite value of each metric."""
    names = list(dict.fromkeys(name for run in runs for name in _test_metrics(run)))
    bests = list(dict.fromkeys(run.summary["best"]["metric"] for run in runs if run.summary.get("best")))
    columns = [metric_label(name) for name in names] + [f"Best {metric_label(name, capital=False)}" for name in bests]
    values: list[list[Any]] = []
    for run in runs:
        best = run.summary.get("best") or {}
        values.append(
            [_test_metrics(run).get(name) for name in names]
            + [best["value"] if best.get("metric") == name else None for name in bests]
        )
    winners = []
    for position, name in enumerate([*names, *bests]):
        finite = [value for row in values if (value := number(row[position])) is not None]
        winners.append((min if name.endswith("loss") else max)(finite, default=None))
    rows = []
    for run, row in zip(runs, values, strict=True):
        cells = [
            {
                "text": metric_text(name, value) if value is not None else "",
                "best": value is not None and value == winner,
            }
            for name, value, winner in zip([*names, *bests], row, winners, strict=True)
        ]
        seconds, parameters = _duration(run), _parameters(run)
        cells += [
            {"text": text, "best": False}
            for text in (
                f"{run.summary['epochs']:,}" if run.summary.get("epochs") is not None else "",
                "" if seconds is None else duration_text(seconds),
                "" if parameters is None else _short(parameters),
            )
        ]
        rows.append(cells)
    return {"columns": [*columns, "Epochs", "Training time", "Parameters"], "rows": rows}


def _differences(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """The configuration keys whose values differ between the runs."""
    flat = [dict(_flatten(run.config)) for run in runs]
    keys = dict.fromkeys(key for config in flat for key in config)
    return [
        (key, [config.get(key, "–") for config in flat])
        for key in keys
        if len({config.get(key) for config in flat}) > 1
    ]


def _flatten(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += _flatten(item, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", "null" if item is None else str(item)))
    return rows


def _yaml(value: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=100)


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M")


def _short(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: ``3 h 25 min``, ``4 min 5 s``, ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
