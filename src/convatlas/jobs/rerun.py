"""A recorded run, once more: its configuration as a command line, its code, its place."""

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
"""Where runs go that are runs once more, unless ``run.root`` says otherwise: not among those they repeat."""

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
"""Asks a source, which may be an old one, what a command would be; these functions are as old as ``submit``."""

NEEDED: Mapping[str, Any] = {
    "data": dict,
    "model": dict,
    "run": dict,
    "trainer": dict,
    "trainer.devices": PositiveInt | Literal["auto"],
    "trainer.num_nodes": PositiveInt,
}
"""What a recorded configuration must have to be run once more."""

RANKS_PER_CORE = 16
"""More processes than that a machine is not asked to start."""

PROVENANCE = ("git", "python", "packages", "host", "data_fingerprint")
"""And what its provenance must have."""

USER_ERROR = "convatlas.errors.UserError: "
"""How Python begins the line of a traceback that says what is to be mended."""


@dataclass(frozen=True)
class Rerun:
    """A recorded run that is to be trained once more.

    Attributes:
        run: Its directory.
        overrides: What ``train`` is given.
        ranks: Its processes on this machine.
        environment: Variables that choose the code and PyTorch's threads.
        code: Which code runs, in words.
        differences: What is not as it was, one line each.
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
    """Get everything ready to train a recorded run once more; the recorded code is there until the context ends.

    It is not mirrored: on W&B it would have the name of the run that it repeats. It gets as many threads of PyTorch as
    the run had, because they decide how sums are rounded. Relative paths count from the present directory.

    Args:
        run_id: The identity on record.
        config: The configuration on record.
        provenance: The provenance on record.
        overrides: Values that are to be others than on record.
        code: Whose code runs.

    Raises:
        UserError: As ``recorded_source``, ``changed_settings`` and ``ask_plan``; other data, or other initial weights,
            than on record.
    """
    given = overridden_keys(overrides)
    where = f"run {run_id}"
    check_stored(config, TRAINING, where, NEEDED)  # the names stay as they are: the recorded code may know no others
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
class Plan:
    """What a source says of a command.

    Attributes:
        run_id: The identity of the run.
        data_fingerprint: That of its data.
        data_digests: Those of the data's parts; empty where the source does not tell them apart.
        legacy_fingerprint: The data's fingerprint as sources had it that did not tell parts apart.
        torch_threads: Threads of PyTorch in that process.
        package: The file of the package that answered.
    """

    run_id: str
    data_fingerprint: str
    data_digests: dict[str, str]
    legacy_fingerprint: str
    torch_threads: int
    package: str


def changed_settings(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recorded configuration with values that the command line gives instead; a new seed is the data's too.

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
    """Write a whole configuration as overrides of ``train``: its groups are left out and given by value instead.

    So any version takes it, whatever its own groups hold by now, and checks it as it checks every command.

    Args:
        settings: A resolved configuration; the order of its keys is kept.
        conf: The configurations of the version that takes it.
    """
    defaults = yaml.safe_load((conf / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    groups = [key for entry in defaults if isinstance(entry, dict) for key in entry if key in settings]
    return [
        *(f"~{group}" for group in groups),
        *(f"{'+' if key in groups else '++'}{key}={quoted(value)}" for key, value in settings.items()),
    ]


def ask_plan(overrides: Sequence[str], environment: Mapping[str, str]) -> Plan:
    """Let the source that ``environment`` chooses say what ``train`` with these overrides would be.

    Raises:
        UserError: It refuses them, or knows no such question; its own words say why.
    """
    command = [sys.executable, "-c", PLAN, *overrides]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [""]
        # In an old source, what a constructor said stands above what Hydra made of it.
        said = [line.removeprefix(USER_ERROR) for line in lines if line.startswith(USER_ERROR)]
        reason = (said or lines)[-1]
        raise UserError(f"the code that is to run refuses the recorded configuration: {reason}")
    return Plan(**json.loads(done.stdout.splitlines()[-1]))


def open_attempt(root: Path, run_id: str, source: Mapping[str, Any] | None) -> RunDirectory:
    """Where to run: the attempt that the same source left unfinished, else the first that does not exist."""
    attempt = 1
    while (run := RunDirectory.choose(str(root), run_id, attempt, fresh=False)).path.exists():
        begun = run.provenance.get("git", source)
        if not run.finished and begun == source:
            break
        attempt += 1
    return run


def _check_complete(provenance: Mapping[str, Any], where: str) -> None:
    """Refuse a provenance without the entries that a run once more needs."""
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


def _check_data(plan: Plan, provenance: Mapping[str, Any]) -> None:
    """Refuse other data than on record; a record without digests of parts has the fingerprint of its time."""
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
    """Let the ranks of all machines be processes of this one, and say how many: the batches are the same."""
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
    """What the command line changes, and another identity that comes of it or of today's configuration."""
    identity = [f"run id: recorded {recorded}, here {run_id}"] if run_id != recorded else []
    given = [override for override in overrides if not override.startswith("run.")]  # which says where alone
    return [*(f"{override} on the command line" for override in given), *identity]


def _parts(provenance: Mapping[str, Any]) -> list[str]:
    """What a resumed run had in part only: it is run once more in one piece, as it was at its end."""
    differences: list[str] = []
    for earlier in provenance.get("earlier_attempts", []):
        if earlier["git"] != provenance["git"]:
            differences.append(f"code: part of the run had {describe(earlier['git'])}")
        differences += environment_differences(earlier, provenance, ("part of the run had", "its end"))
    return list(dict.fromkeys(differences))
