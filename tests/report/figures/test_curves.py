import json
from typing import Any

import numpy as np
import pytest

from convatlas.record.groups import group_runs
from convatlas.record.reader import read_run
from convatlas.report.figures.curves import POINTS, buckets_per_curve, panel_figure
from convatlas.report.figures.evaluation_figures import class_accuracies, confusion_matrix
from convatlas.report.figures.hyperparameters import parallel_coordinates
from convatlas.report.figures.panels import Dashboard, Panel
from tests.report.conftest import HOSTILE

LOSS = Panel("Loss", ["train/loss", "val/loss"], smoothing=0.9)


def test_one_run_shows_what_was_logged_behind_the_smoothed_line(make_run: Any) -> None:
    run = read_run(make_run())
    logged, train, validation = panel_figure(LOSS, group_runs([run]))["data"]
    assert logged["hoverinfo"] == "skip"
    assert train["customdata"][100][0] == logged["y"][100] != train["y"][100]
    assert validation["mode"] == "lines+markers"
    assert validation["y"] == pytest.approx(run.series["val/loss"].means, rel=1e-5)  # validation is not smoothed


def test_a_spike_is_seen_in_a_curve_of_few_buckets(make_run: Any) -> None:
    path = make_run(steps=6000)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    spike = next(row for row in rows if row["step"] == 3333)
    spike["train/loss"] = 77.5
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    groups = group_runs([read_run(path)])
    (plain, _) = panel_figure(Panel("Loss", ["train/loss", "val/loss"]), groups, limit=100)["data"]
    assert len(plain["x"]) <= 200
    assert max(plain["y"]) == 77.5
    assert abs(plain["x"][plain["y"].index(77.5)] - 3333) < 64
    logged = panel_figure(LOSS, groups, limit=100)["data"][0]
    assert max(logged["y"]) == 77.5


def test_seeds_are_a_mean_with_a_band_of_one_deviation(make_run: Any) -> None:
    runs = [read_run(make_run(seed=seed, evaluation=False)) for seed in range(3)]
    panel = Panel("Top-1", ["val/top1"])
    band, line = panel_figure(panel, group_runs(runs))["data"]
    table = np.array([run.series["val/top1"].means for run in runs])
    assert line["y"] == pytest.approx(table.mean(axis=0), rel=1e-5)
    assert [pair[0] for pair in line["customdata"]] == pytest.approx(table.std(axis=0, ddof=1), rel=1e-4)
    assert band["y"][: len(line["y"])] == pytest.approx((table.mean(axis=0) + table.std(axis=0, ddof=1)), rel=1e-4)
    assert band["fill"] == "toself"


def test_a_seed_that_is_behind_counts_as_far_as_it_came(make_run: Any) -> None:
    long, short = make_run(seed=0, evaluation=False), make_run(seed=1, evaluation=False)
    lines = (short / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (short / "metrics.jsonl").write_text("".join(lines[: len(lines) // 2]), encoding="utf-8")
    (_, line) = panel_figure(Panel("Top-1", ["val/top1"]), group_runs([read_run(long), read_run(short)]))["data"]
    assert [pair[1] for pair in line["customdata"]] == [2] * 6 + [1] * 6


def test_without_grouping_every_run_is_a_curve(make_run: Any) -> None:
    runs = [read_run(make_run(seed=seed, evaluation=False)) for seed in range(2)]
    traces = panel_figure(Panel("Top-1", ["val/top1"], group=False), group_runs(runs))["data"]
    assert [trace["meta"] for trace in traces] == [{"run": 0}, {"run": 1}]
    assert len({trace["name"] for trace in traces}) == 2


@pytest.mark.parametrize(("axis", "last"), [("step", 480), ("epoch", 11), ("hours", 479 * 0.2 / 3600)])
def test_curves_run_over_steps_epochs_or_hours(make_run: Any, axis: Any, last: float) -> None:
    panel = Panel("Learning rate", ["train/learning_rate"], axis=axis)
    figure = panel_figure(panel, group_runs([read_run(make_run(evaluation=False))]))
    assert figure["data"][0]["x"][-1] == pytest.approx(last, abs=1e-4)


def test_gaps_are_null(hostile_run: Any) -> None:
    figure = panel_figure(Panel("Loss", ["train/loss"]), group_runs([read_run(hostile_run)]))
    assert figure["data"][0]["y"][30:32] == [None, None]
    json.dumps(figure, allow_nan=False)


def test_the_points_of_a_page_are_bounded(make_run: Any, dashboard: Dashboard) -> None:
    groups = group_runs([read_run(make_run(evaluation=False))])
    panels = list(dashboard.panels.values())
    metrics = sum(len(panel.metrics) for panel in panels)
    assert buckets_per_curve(panels, groups) == 1024
    assert buckets_per_curve(panels, groups * 100) == POINTS // (100 * metrics)
    assert buckets_per_curve(panels, groups * 100_000) == 64


def test_parallel_coordinates_run_from_settings_to_the_result(make_run: Any) -> None:
    runs = [read_run(make_run(seed=seed, skill=skill, evaluation=False)) for seed in (0, 1) for skill in (0.5, 1, 2)]
    figure = parallel_coordinates(group_runs(runs))
    assert figure is not None
    assert figure["layout"]["xaxis"]["ticktext"] == ["lr", "<b>Test top-1</b>"]
    ends = {trace["name"]: trace["y"] for trace in figure["data"]}
    assert [y[0] for y in ends.values()] == [0, round(0.05 / 0.15, 4), 1]  # linear: 0.05, 0.1, 0.2
    assert figure["data"][-1]["y"][-1] == 1  # the best is on top
    assert figure["data"][-1]["line"]["color"] == "var(--heat-4)"
    assert parallel_coordinates(group_runs(runs[:1])) is None
    assert parallel_coordinates([]) is None


def test_only_a_small_confusion_matrix_has_text_in_its_cells(make_run: Any) -> None:
    small = confusion_matrix(read_run(make_run()).evaluations()["test"])
    names = [f"class {index}" for index in range(30)]
    large = confusion_matrix(read_run(make_run(seed=1, classes=names)).evaluations()["test"])
    assert "texttemplate" in small["data"][0]
    assert "texttemplate" not in large["data"][0]
    assert len(large["layout"]["xaxis"]["tickvals"]) <= 20
    for row in small["data"][0]["z"]:
        assert sum(row) == pytest.approx(1, abs=1e-3)


def test_class_bars_are_sorted_and_leave_out_classes_without_images() -> None:
    rows = [("a", 0.5, 4), ("b", None, 0), ("c", 0.75, 4)]
    evaluation = {"per_class": [{"class": name, "accuracy": value, "count": count} for name, value, count in rows]}
    bars = class_accuracies(evaluation)["data"][0]
    assert bars["y"] == ["c", "a"]
    assert bars["x"] == [0.75, 0.5]


def test_names_of_metrics_are_no_markup_and_a_huge_setting_is_no_number(make_run: Any) -> None:
    runs = [make_run(seed=0, skill=skill, evaluation=False) for skill in (0.5, 1.0)]
    for number, path in enumerate(runs):
        summary, config = (json.loads((path / "summary.json").read_text(encoding="utf-8")), path / "config.yaml")
        (path / "summary.json").write_text(json.dumps(summary | {"test": {f"test/{HOSTILE}": 0.5}}), encoding="utf-8")
        digits = "9" * 400 if number else "1"
        config.write_text(f"{config.read_text(encoding='utf-8')}size: {digits}\n", encoding="utf-8")
    figure = parallel_coordinates(group_runs([read_run(path) for path in runs]))
    assert figure is not None
    assert "<script>" not in json.dumps(figure)
    assert "&lt;script&gt;" in figure["layout"]["xaxis"]["ticktext"][-1]
    assert [trace["y"][figure["layout"]["xaxis"]["ticktext"].index("size")] for trace in figure["data"]] in (
        [0.0, 1.0],
        [1.0, 0.0],
    )
