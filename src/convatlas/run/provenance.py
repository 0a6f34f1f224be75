"""What exactly produced a run: code, environment, command."""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from convatlas.run.directory import now

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
"""The top of the checkout, or of its snapshot, that the code runs from; some folder for an installed package."""
STATE = "git.json"
"""What a snapshot was taken of."""


def collect_provenance(data_fingerprint: str, class_list_hash: str) -> dict[str, Any]:
    """Gather the provenance of a run that starts now.

    Only named facts are taken, never the whole environment: it may hold secrets.
    """
    return {
        "started": now(),
        "command": shlex.join(["convatlas", Path(sys.argv[0]).stem, *sys.argv[1:]]),
        "directory": str(Path.cwd()),
        "git": source_state(SOURCE),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "slurm": {name: os.environ[name] for name in SLURM if name in os.environ},
        "data_fingerprint": data_fingerprint,
        "class_list_hash": class_list_hash,
    }


def source_state(source: Path) -> dict[str, Any] | None:
    """Commit and uncommitted changes of a checkout, or what a snapshot was taken of; None for an installed package."""
    if (source / STATE).is_file():
        state: dict[str, Any] = json.loads((source / STATE).read_text())
        return state
    if not (source / "pyproject.toml").is_file():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        diff = git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):  # no git, or an unpacked archive
        return None
    return {"commit": commit, "dirty": bool(diff), "diff": diff}
