"""Files of a sweep that are damaged or hostile are one line that names them."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from convatlas.errors import NewerFormatError, UnreadableError, UserError
from convatlas.sweep.definition import FILE, Sweep, find_sweep_of_before, open_sweep, write_sweep
from convatlas.sweep.result import rows
from convatlas.sweep.storage import JOURNAL
from tests.sweep.definitions import make_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A sweep with a trial that is complete and one that failed."""
    made = make_sweep(tmp_path / "small-00000000", 2)
    trial = made.study.ask()
    trial.suggest_float("rate", 0.001, 1.0)
    trial.set_user_attr("run", "net-data-00000000-s0")
    made.study.tell(trial, 0.5)
    return made


def settings_of(sweep: Sweep) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((sweep.directory / FILE).read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("space", ["x"], "space=.*: expected a mapping"),
        ("space", {"rate": "x"}, "space=.*: expected a mapping"),
        ("pruner", "x", "pruner=x: expected a mapping"),
        ("objective", None, "objective=None: expected a list"),
        ("objective", [], "expected at least one objective"),
        ("objective", [{"metric": None, "mode": "max"}], "objective=.*: expected a list"),
        ("train", "x", "train=x: expected a list"),
        ("study", float("nan"), "study=nan: expected str"),
        ("storage", 5, "storage=5: expected str or null"),
    ],
)
def test_an_entry_of_another_type_is_named(sweep: Sweep, key: str, value: Any, message: str) -> None:
    path = sweep.directory / FILE
    before = yaml.safe_dump(settings_of(sweep) | {key: value})
    path.write_text(before, encoding="utf-8")
    for use in (open_sweep, lambda directory: write_sweep(directory, settings_of(sweep), None)):
        with pytest.raises(UserError, match=f"{re.escape(str(path))}: .*{message}"):
            use(sweep.directory)
    assert path.read_text(encoding="utf-8") == before


def test_a_newer_format_is_refused(sweep: Sweep) -> None:
    (sweep.directory / FILE).write_text('{"format": 7, "space": "of another kind"}', encoding="utf-8")
    message = r"sweep\.yaml: written by a newer ConvAtlas; its format is 7, this version reads up to 1$"
    with pytest.raises(NewerFormatError, match=message):
        open_sweep(sweep.directory)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_target_": ""}, r"sweep\.yaml: space\.rate would construct"),
        ({"low": 10**400}, r"sweep\.yaml: space\.rate\.low=10+: expected float"),
        ({"_target_": "os.system"}, ""),
    ],
)
def test_a_damaged_neighbour_is_not_taken_for_the_sweep(sweep: Sweep, changed: dict[str, Any], message: str) -> None:
    settings = settings_of(sweep)
    before = settings | {"space": settings["space"] | {"rate": settings["space"]["rate"] | changed}}
    (sweep.directory / FILE).write_text(yaml.safe_dump(before), encoding="utf-8")
    with pytest.raises(UserError, match=message) if message else nullcontext():
        assert find_sweep_of_before(sweep.directory.with_name("small-11111111"), settings, settings["train"]) is None


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (0, b"\0" * 30),
        (0, b"oops"),
        (0, b"{}"),
        (0, {"directions": [1]}),
        (1, {"datetime_start": "yesterday"}),
        (3, {"user_attr": {"run": "../../elsewhere"}}),
        (3, {"user_attr": {"run": 5}}),
        (3, {"user_attr": {"worker": "/etc"}}),
        (4, {"values": None}),
        (4, {"values": ["high"]}),
        (4, {"values": [0.5, 0.6]}),
    ],
)
def test_a_damaged_journal_is_named_and_nothing_of_it_is_lost(sweep: Sweep, number: int, line: Any) -> None:
    path = sweep.directory / JOURNAL
    lines = [text for text in path.read_bytes().split(b"\n") if b'"num_trials"' not in text and b"retries" not in text]
    path.write_bytes(b"\n".join(lines))
    assert rows(open_sweep(sweep.directory))[0]["values"] == {"val/top1": 0.5}
    lines[number] = line if isinstance(line, bytes) else json.dumps(json.loads(lines[number]) | line).encode()
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()  # Optuna appends that a study is opened
    with pytest.raises(UnreadableError, match=r"journal\.log: damaged, ") as caught:
        open_sweep(sweep.directory)
    assert "\n" not in str(caught.value)
    assert path.read_bytes().startswith(before)
