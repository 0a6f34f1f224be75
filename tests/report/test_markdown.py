from pathlib import Path
from typing import Any

import pytest

from convatlas.record.groups import group_runs
from convatlas.record.reader import read_run
from convatlas.report.markdown import ROWS, escape, markdown


def test_the_tables_are_those_of_the_page(make_run: Any) -> None:
    expected = [{"metric": "test/top1", "value": 0.9, "source": "ResNet, table 6"}]
    runs = [read_run(make_run(seed=seed, expected=expected)) for seed in (0, 1)]
    runs.append(read_run(make_run(seed=0, skill=0.5)))
    text = markdown("3 runs", group_runs(runs))
    assert text.startswith("# 3 runs\n")
    lines = text.splitlines()
    assert "| Configuration | Runs | Test top-1 | Test top-5 | Test loss | Best val top-1 |" in lines
    assert "| --- | --: | --: | --: | --: | --: |" in lines
    (best,) = [line for line in lines if line.startswith("| resnet20\\_cifar10 · lr 0.1 | 2 |")]
    assert "±" in best
    assert "**" in best
    (wanted,) = [line for line in lines if "ResNet, table 6" in line]
    assert "| 90.00 % |" in wanted
    assert sum(line.startswith("| resnet20\\_cifar10-") for line in lines) == 3


def test_many_runs_are_cut_and_counted(make_run: Any) -> None:
    run = read_run(make_run(evaluation=False))
    assert f"The first {ROWS} of {ROWS + 5}." in markdown("many", group_runs([run] * (ROWS + 5)))


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a|b", "[x](javascript:y)", "**b**", "a\nb", "`c`"])
def test_names_cannot_become_markup(name: str, tmp_path: Path) -> None:
    text = escape(name)
    assert "\n" not in text
    assert "<" not in text
    for sign in "|[]*`":
        assert text.count(sign) == text.count(f"\\{sign}")
