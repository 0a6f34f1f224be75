"""The result of a sweep: a row for each trial, the best trials, and the command that repeats a trial."""

import csv
import io
import shlex
from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from convatlas.sweep.definition import REASON, RUN, Sweep
from convatlas.sweep.space import override_text
from convatlas.utils.files import write_atomic

TABLE = "trials.csv"


def row(sweep: Sweep, trial: FrozenTrial) -> dict[str, Any]:
    """Describe a trial: ``number``, ``state``, ``values`` by metric, ``params`` by name, ``reason``, ``run``."""
    values = trial.values or [None] * len(sweep.objectives)
    run = trial.user_attrs.get(RUN)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "values": {objective.metric: value for objective, value in zip(sweep.objectives, values, strict=True)},
        "params": {name: trial.params[name] for name in sweep.space.parameters if name in trial.params},
        "reason": trial.user_attrs.get(REASON),
        "run": None if run is None else str(sweep.directory / "runs" / run),
    }


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """Describe every trial, ordered by number."""
    return [row(sweep, trial) for trial in sweep.study.get_trials(deepcopy=False)]


def best(sweep: Sweep) -> list[dict[str, Any]]:
    """The best trial, or with several objectives the Pareto front; empty while no trial is complete.

    Returns:
        As ``row``, with ``command``, which trains the trial again.
    """
    front = sweep.study.best_trials  # of one objective: all that reach the best value
    if len(sweep.objectives) == 1:
        front = front[:1]
    found = [row(sweep, trial) for trial in front]
    return [entry | {"command": command(sweep, entry["params"])} for entry in found]


def command(sweep: Sweep, params: Mapping[str, Any]) -> str:
    """The command that trains with the given parameters and the settings of the sweep."""
    return shlex.join(["convatlas", "train", *sweep.train, *sweep.space.overrides(params)])


def write_table(sweep: Sweep) -> None:
    """Write ``trials.csv`` into the directory of the sweep. The caller holds the mutex."""
    text = io.StringIO()
    metrics, names = [objective.metric for objective in sweep.objectives], list(sweep.space.parameters)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "state", *metrics, *names, "reason", "run"])
    for entry in rows(sweep):
        params = [override_text(entry["params"][name]) if name in entry["params"] else "" for name in names]
        writer.writerow(
            [entry["number"], entry["state"], *entry["values"].values(), *params, entry["reason"], entry["run"]]
        )
    write_atomic(sweep.directory / TABLE, text.getvalue())


def trial_line(sweep: Sweep, trial: FrozenTrial) -> str:
    """A finished trial as one line of text."""
    entry = row(sweep, trial)
    values = "  ".join(f"{item.metric} {item.text(entry['values'][item.metric])}" for item in sweep.objectives)
    told = {TrialState.COMPLETE: values, TrialState.PRUNED: values if trial.values else ""}.get(
        trial.state, entry["reason"]
    )
    params = " ".join(sweep.space.overrides(entry["params"]))
    return "  ".join(filter(None, [f"trial {trial.number}", entry["state"], told, params]))
