"""The provenance of a run: code, environment and command that produced it."""

import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from convatlas.config.composition import project_path
from convatlas.record.directory import now
from convatlas.record.files import read_source

PACKAGES = (
    "convatlas",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "hydra-core",
    "wandb",
    "numpy",
)
SLURM = (
    "SLURM_JOB_ID",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_RESTART_COUNT",
)

SOURCE = Path(__file__).resolve().parents[3]
"""Top folder of the checkout or snapshot that the code runs from; not meaningful for an installed package."""
STATE = "git.json"
"""File of a snapshot that holds the commit and the changes it was taken from."""

DECISIVE = ("system", "cpu", "cpus", "torch_threads", "gpus")
"""Entries of the host that may change how numbers are rounded, and so the last digits of a result."""


def collect_provenance(
    data_fingerprint: str, data_digests: Mapping[str, str], class_list_hash: str, start: Mapping[str, str]
) -> dict[str, Any]:
    """Gather the provenance of a run that starts now.

    Only named facts are taken, never the whole environment: it may hold secrets.

    Args:
        data_fingerprint: Fingerprint of the data set.
        data_digests: Digests of its parts, such as ``train/masks``, which tell which parts differ.
        class_list_hash: Hash of the class list.
        start: Fingerprints of the state before the first step.
    """
    return {
        "started": now(),
        "command": shlex.join(["convatlas", Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "directory": str(Path.cwd()),
        "git": source_state(SOURCE),
        **environment(),
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
        "data_fingerprint": data_fingerprint,
        "data_digests": dict(data_digests),
        "class_list_hash": class_list_hash,
        "start": dict(start),
    }


def differing_parts(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """List the parts in which two data sets differ, such as ``train masks``, sorted.

    The sizes of files in one and their contents in the other cannot be compared and are left out.

    Args:
        before: The ``data_digests`` of one.
        after: Those of the other.
    """

    def files(parts: Iterable[str]) -> set[str]:
        return {re.sub("_(sizes|contents)$", "", part) for part in parts}

    in_one = {*before} ^ {*after}
    in_both = files(before) & files(after)
    other = [part for part in in_one if not files([part]) & in_both]
    other += [part for part in before.keys() & after.keys() if before[part] != after[part]]
    return [part.replace("/", " ").replace("_", " ") for part in sorted(other)]


def environment() -> dict[str, Any]:
    """Describe Python, packages and machine of this process."""
    import torch  # takes seconds, which the readers of provenance need not wait for

    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "cpu": f"{_cpu()}, {torch.backends.cpu.get_cpu_capability()}",
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
    }


def code_digest() -> str:
    """The SHA-256 of the code of ConvAtlas that runs, from a checkout or an installed package."""
    digest = hashlib.sha256()
    for folder in (Path(__file__).parents[1], project_path("pipelines")):
        for file in sorted(folder.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def environment_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], words: tuple[str, str] = ("recorded", "here")
) -> list[str]:
    """List the differences of two results of ``environment`` that may change a result, one line each.

    The version of ConvAtlas is left out, because the commit is more precise.

    Args:
        first: One.
        second: The other.
        words: The words before the values of each.
    """
    before, after = map(_decisive, (first, second))
    return [
        f"{name}: {words[0]} {before.get(name, 'nothing')}, {words[1]} {after.get(name, 'nothing')}"
        for name in before | after
        if before.get(name) != after.get(name)
    ]


def _decisive(found: Mapping[str, Any]) -> dict[str, Any]:
    host = {name: found["host"][name] for name in DECISIVE if name in found["host"]}
    packages = {name: version for name, version in found["packages"].items() if name != "convatlas"}
    return {"python": found["python"], **packages, **host}


def _cpu() -> str:
    """The model of the processor if the system tells it, otherwise its architecture."""
    info = Path("/proc/cpuinfo")
    models = re.findall(
        r"^model name\s*: (.+)$", info.read_text(encoding="utf-8") if info.is_file() else "", flags=re.MULTILINE
    )
    return models[0] if models else platform.machine()


def source_state(source: Path) -> dict[str, Any] | None:
    """Commit and uncommitted changes of a checkout or of a snapshot's source; None for an installed package."""
    if (source / STATE).is_file():
        return read_source(source / STATE)
    if not (source / "pyproject.toml").is_file():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        diff = git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):  # no git, or an unpacked archive
        return None
    return {"commit": commit, "dirty": bool(diff), "diff": diff}
