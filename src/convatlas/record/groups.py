"""Group runs that differ only in the seed, and find the settings in which the groups differ."""

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convatlas.config.public_names import public_name
from convatlas.record.reader import RunRecord, number

WITHOUT_MEANING = re.compile(r"(^|\.)seed$|^(run|tracking|expected|seeds|format)(\.|$)|_target_$")
"""Configuration keys that are no hyper-parameters."""

NAMED_KEYS = 3
"""Most keys in the label of a group."""


@dataclass(frozen=True)
class Statistic:
    """A metric over the runs of a group.

    Attributes:
        mean: Mean of the finite values.
        deviation: Their standard deviation (N - 1), or None for a single one.
        count: Number of finite values.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Group:
    """Runs of one configuration.

    Attributes:
        key: The run id of its runs without the seed.
        label: Its name in tables and figures.
        runs: Its runs.
        settings: Values of the hyper-parameters in which the groups of a report differ, by key.
    """

    key: str
    label: str
    runs: tuple[RunRecord, ...]
    settings: Mapping[str, Any]

    def statistic(self, metric: str) -> Statistic | None:
        """Mean and deviation of a final metric, ``test/top1`` or ``best val/top1``; None if no run has it."""
        values = [value for run in self.runs if (value := number(final_metrics(run).get(metric))) is not None]
        if not values:
            return None
        return Statistic(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def group_key(run: RunRecord) -> str:
    """The run id without its seed: ``<model>-<data>-<hash>``, the same for each attempt."""
    return re.sub(r"-s\d+(-a\d+)?$", "", run.run_id)


def final_metrics(run: RunRecord) -> dict[str, Any]:
    """The metrics of the reported split, and the best one of validation as ``best <metric>``."""
    best = run.summary.get("best")
    return {**run.results, **({f"best {best['metric']}": best["value"]} if best else {})}


def metric_names(runs: Sequence[RunRecord]) -> list[str]:
    """The final metrics of the runs, those of the reported split first."""
    names = dict.fromkeys(name for run in runs for name in final_metrics(run))
    return sorted(names, key=lambda name: name.startswith("best "))


def group_runs(runs: Sequence[RunRecord]) -> list[Group]:
    """Sort runs into groups, in order of first appearance."""
    members: dict[str, list[RunRecord]] = {}
    for run in runs:
        members.setdefault(group_key(run), []).append(run)
    settings = _settings(list(members.values()))
    labels = _labels(members, settings)
    return [
        Group(key, label, tuple(found), values)
        for (key, found), label, values in zip(members.items(), labels, settings, strict=True)
    ]


def differing_keys(groups: Sequence[Group]) -> list[str]:
    """The hyper-parameters in which the groups differ, in the order of the configuration."""
    return list(groups[0].settings) if groups else []


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted keys, with the public names of today; a list is one value."""
    rows: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows |= flatten(item, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = public_name(str(item)) or item if key == "_target_" else item
    return rows


def _settings(groups: Sequence[Sequence[RunRecord]]) -> list[dict[str, Any]]:
    """The keys that differ between the groups. Keys that differ within a group do not matter and are left out."""
    flat = [[flatten(run.config) for run in runs] for runs in groups]
    keys = list(dict.fromkeys(key for runs in flat for run in runs for key in run))
    differing = []
    for key in keys:
        if WITHOUT_MEANING.search(key):
            continue
        values = [{repr(run.get(key)) for run in runs} for runs in flat]
        if all(len(found) == 1 for found in values) and len(set.union(*values)) > 1:
            differing.append(key)
    return [{key: runs[0].get(key) for key in differing} for runs in flat]


def _labels(members: Mapping[str, Sequence[RunRecord]], settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Label groups by name. Groups of one name also get the settings in which they differ, and the hash if need be."""
    names = [runs[0].name for runs in members.values()]
    if len({name.partition(" on ")[2] for name in names}) == 1 < len(names):
        names = [name.partition(" on ")[0] for name in names]  # all on the same data
    count = Counter(names)
    labels = []
    for name, values in zip(names, settings, strict=True):
        others = [value for other, value in zip(names, settings, strict=True) if other == name]
        keys = [key for key in values if len({repr(other[key]) for other in others}) > 1][:NAMED_KEYS]
        told = ", ".join(f"{short_key(key)} {value_text(values[key])}" for key in keys)
        labels.append(f"{name} · {told}" if count[name] > 1 and told else name)
    count = Counter(labels)
    return [
        label if count[label] == 1 else f"{label} · {key.rpartition('-')[2]}"
        for label, key in zip(labels, members, strict=True)
    ]


def short_key(key: str) -> str:
    """A configuration key as a label: its last part; of ``model.name``, the model."""
    return key.removesuffix(".name").rpartition(".")[2]


def value_text(value: object) -> str:
    """A value of the configuration as text, as in YAML."""
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
