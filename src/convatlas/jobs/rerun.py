"""Prepare the repetition of a recorded run: its command line, its code and its directory."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra.core.override_parser.types import OverrideType
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import PositiveInt

from convatlas.config.composition import overridden_keys, parse_overrides, project_path, quoted
from convatlas.config.stored import TRAINING, check_paths, check_stored
from convatlas.errors import UserError
from convatlas.jobs.source import describe, recorded_source
from convatlas.record.directory import RunDirectory
from convatlas.record.identity import IGNORED_KEYS
from convatlas.record.provenance import SOURCE, differing_parts, environment, environment_differences, source_state
from convatlas.utils.cores import usable_cores

ROOT = "reproductions"
"""Default folder of repeated runs, apart from the runs that they repeat."""

PLAN = """
import json, sys
import torch, convatlas
try:
    from convatlas.config.composition import check_config, compose
    from convatlas.training.plan import TYPES, plan_run
except ModuleNotFoundError:
    from convatlas.config import check_config, compose
    from convatlas.planning import TYPES, plan_run
config = compose("train", sys.argv[1:])
check_config(config, TYPES)
run, data = plan_run(config)
found = {"run_id": run.run_id, "torch_threads": torch.get_num_threads(), "package": convatlas.__file__}
found |= {"data_fingerprint": data.fingerprint, "data_digests": {}, "legacy_fingerprint": data.fingerprint}
if hasattr(data, "digests"):
    from convatlas.data.legacy_fingerprint import legacy_fingerprint
    found |= {"data_digests": data.digests, "legacy_fingerprint": legacy_fingerprint(data)}
print("\\n" + json.dumps(found))
"""
"""Script that plans a run with another, possibly older, version of the source."""

NEEDED: Mapping[str, Any] = {
    "data": dict,
    "model": dict,
    "run": dict,
    "trainer": dict,
    "trainer.devices": PositiveInt | Literal["auto"],
    "trainer.num_nodes": PositiveInt,
}
"""Types of the keys that a recorded configuration needs for a repetition."""

RANKS_PER_CORE = 16
"""Largest number of ranks for each core of this machine."""

PROVENANCE = ("git", "python", "packages", "host", "data_fingerprint")
"""Entries that the provenance needs for a repetition."""

USER_ERROR = "convatlas.errors.UserError: "
"""Start of the line of a traceback with the message of a ``UserError``."""


@dataclass(frozen=True)
class Rerun:
    """The repetition of a recorded run.

    Attributes:
        run: The directory of the repetition.
        overrides: Arguments of ``train``.
        ranks: Number of ranks on this machine.
        environment: Variables that select the code and the number of PyTorch's threads.
        code: Description of the code that runs.
        differences: Differences from the recorded run, one line each.
    """

    run: RunDirectory
    overrides: list[str]
    ranks: int
    environment: dict[str, str]
    code: str
    differences: list[str]


@contextmanager
def prepared_rerun(
    run_id: str,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    overrides: Sequence[str],
    code: Literal["recorded", "current"],
) -> Iterator[Rerun]:
    """Prepare the repetition of a recorded run; the recorded code exists until the context ends.

    The repetition is not mirrored, because on W&B it would have the name of the original run. It uses as many threads
    of PyTorch as the original, because they determine the rounding of sums. Relative paths start at the present
    directory.

    Args:
        run_id: The recorded identity.
        config: The recorded configuration.
        provenance: The recorded provenance.
        overrides: Values that replace recorded ones.
        code: Whether the recorded or the current code runs.

    Raises:
        UserError: As in ``recorded_source``, ``changed_settings`` and ``ask_plan``; the data or the initial weights
            differ from the recorded ones.
    """
    given = overridden_keys(overrides)
    where = f"run {run_id}"
    check_stored(config, TRAINING, where, NEEDED)  # the names stay: the recorded code may not know others
    settings = changed_settings({**config, "data": check_paths(config["data"], where)}, overrides)
    root = settings["run"]["root"] if "run.root" in given else ROOT
    ranks = _one_machine(settings["trainer"], where)
    settings |= {"tracking": {}, "run": settings["run"] | {"root": root, "attempt": 1, "fresh": False}}
    _check_complete(provenance, where)
    state = provenance["git"]
    recorded = code == "recorded"
    with recorded_source(state, SOURCE) if recorded else nullcontext(SOURCE) as source:
        variables = {"OMP_NUM_THREADS": str(provenance["host"]["torch_threads"])}
        if recorded:
            path = [str(source / "src"), os.environ.get("PYTHONPATH", "")]
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        conf = source / "conf" if recorded else project_path("conf")
        plan = ask_plan(as_overrides(settings, conf), variables)
        if recorded and not Path(plan.package).is_relative_to(source):
            raise UserError(f"code=recorded: {plan.package} would run instead of the recorded code; give code=current")
        _check_data(plan, provenance)
        identity = re.sub(r"-a\d+$", "", run_id)
        if recorded and plan.run_id != identity and all(key.startswith(IGNORED_KEYS) for key in given):
            raise UserError(f"model.weights: the run began from other weights: it would be {plan.run_id}")
        here = environment()
        here["host"]["torch_threads"] = plan.torch_threads
        run = open_attempt(Path(root), plan.run_id, state if recorded else source_state(SOURCE))
        settings["run"]["attempt"] = run.attempt
        yield Rerun(
            run,
            as_overrides(settings, conf),
            ranks,
            variables,
            f"{describe(state)}, as recorded"
            if recorded
            else f"{describe(source_state(SOURCE))}, recorded was {describe(state)}",
            [
                *_changes(identity, plan.run_id, overrides),
                *_parts(provenance),
                *environment_differences(provenance, here),
            ],
        )


@dataclass(frozen=True)
class PlannedRun:
    """The run that a version of the source would train.

    Attributes:
        run_id: The identity of the run.
        data_fingerprint: The fingerprint of its data.
        data_digests: The digests of the parts of the data; empty if the source has none.
        legacy_fingerprint: The fingerprint of the data by the rule of sources without digests of parts.
        torch_threads: Number of PyTorch's threads in that process.
        package: The file of the package that was imported.
    """

    run_id: str
    data_fingerprint: str
    data_digests: dict[str, str]
    legacy_fingerprint: str
    torch_threads: int
    package: str


def changed_settings(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Replace values of a recorded configuration by those of the command line; a new seed is also the data's seed.

    Raises:
        UserError: A key that the configuration does not have, or a group.
    """
    settings = OmegaConf.create(dict(config))
    OmegaConf.set_struct(settings, True)
    parsed = parse_overrides(overrides)
    for override in parsed:
        key = override.key_or_group
        try:
            if override.type is not OverrideType.CHANGE or isinstance(OmegaConf.select(settings, key), DictConfig):
                raise UserError(f"{override.input_line}: with run=… expected key=value of a single recorded key")
            OmegaConf.update(settings, key, override.value())
        except OmegaConfBaseException as error:
            raise UserError(f"{override.input_line}: the recorded configuration has no key {key}") from error
    if "seed" in {override.key_or_group for override in parsed}:
        settings.data.seed = settings.seed
    return {str(key): value for key, value in OmegaConf.to_container(settings).items()}  # type: ignore[union-attr]


def as_overrides(settings: Mapping[str, Any], conf: Path) -> list[str]:
    """Write a whole configuration as overrides of ``train``, with values in place of its groups.

    Any version accepts them, whatever its own groups contain, and checks them like every command.

    Args:
        settings: A resolved configuration; the order of its keys is kept.
        conf: The folder ``conf`` of the version that runs.
    """
    defaults = yaml.safe_load((conf / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    groups = [key for entry in defaults if isinstance(entry, dict) for key in entry if key in settings]
    return [
        *(f"~{group}" for group in groups),
        *(f"{'+' if key in groups else '++'}{key}={quoted(value)}" for key, value in settings.items()),
    ]


def ask_plan(overrides: Sequence[str], environment: Mapping[str, str]) -> PlannedRun:
    """Plan the run of these overrides with the source that ``environment`` selects.

    Raises:
        UserError: The source refuses the overrides or fails; the message is its own.
    """
    command = [sys.executable, "-c", PLAN, *overrides]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        # In an old source, the message of a constructor comes before that of Hydra.
        said = [line.removeprefix(USER_ERROR) for line in lines if line.startswith(USER_ERROR)]
        reason = (said or lines)[-1]
        raise UserError(f"the code that is to run refuses the recorded configuration: {reason}")
    return PlannedRun(**json.loads(done.stdout.splitlines()[-1]))


def open_attempt(root: Path, run_id: str, source: Mapping[str, Any] | None) -> RunDirectory:
    """Choose the attempt that the same source left unfinished, otherwise the first that does not exist."""
    attempt = 1
    while (run := RunDirectory.choose(str(root), run_id, attempt, fresh=False)).path.exists():
        begun = run.provenance.get("git", source)
        if not run.finished and begun == source:
            break
        attempt += 1
    return run


def _check_complete(provenance: Mapping[str, Any], where: str) -> None:
    """Refuse a provenance without the entries that a repetition needs."""
    for record in (provenance, *provenance.get("earlier_attempts", [])):
        lacking = [name for name in PROVENANCE if name not in record]
        if (
            lacking
            or "torch_threads" not in record["host"]
            or (record["git"] and not {"dirty", "diff"} <= {*record["git"]})
        ):
            raise UserError(
                f"{where}: provenance.json is incomplete; expected {', '.join(PROVENANCE)}, as training writes them"
            )


def _check_data(plan: PlannedRun, provenance: Mapping[str, Any]) -> None:
    """Refuse data that differ from the recorded ones; old records have a fingerprint by their own rule."""
    recorded, parts = provenance["data_fingerprint"], provenance.get("data_digests")
    here = plan.legacy_fingerprint if parts is None else plan.data_fingerprint
    if here == recorded:
        return
    other = differing_parts(parts, plan.data_digests) if parts else ["names", "labels or annotations"]
    raise UserError(
        f"data: these are not the data of the run: {', '.join(other)} differ (fingerprint {here[:12]}, recorded "
        f"{recorded[:12]}); data.root=… says where the same ones are"
    )


def _one_machine(trainer: dict[str, Any], where: str) -> int:
    """Move the ranks of all machines to this one, and return their number; the batches stay the same."""
    if trainer["devices"] == "auto":
        return 1
    ranks = trainer["devices"] * trainer["num_nodes"]
    if ranks > (most := RANKS_PER_CORE * usable_cores()):
        raise UserError(
            f"{where}: trainer.devices={trainer['devices']} trainer.num_nodes={trainer['num_nodes']}: expected at most "
            f"{most} ranks, {RANKS_PER_CORE} for each core of this machine"
        )
    trainer |= {"devices": ranks, "num_nodes": 1}
    return int(ranks)


def _changes(recorded: str, run_id: str, overrides: Sequence[str]) -> list[str]:
    """List the changes of the command line, and a changed identity."""
    identity = [f"run id: recorded {recorded}, here {run_id}"] if run_id != recorded else []
    given = [override for override in overrides if not override.startswith("run.")]  # these change only the directory
    return [*(f"{override} on the command line" for override in given), *identity]


def _parts(provenance: Mapping[str, Any]) -> list[str]:
    """List differences between the parts of a resumed run: the repetition uses the state at its end."""
    differences: list[str] = []
    for earlier in provenance.get("earlier_attempts", []):
        if earlier["git"] != provenance["git"]:
            differences.append(f"code: part of the run had {describe(earlier['git'])}")
        differences += environment_differences(earlier, provenance, ("part of the run had", "its end"))
    return list(dict.fromkeys(differences))
