"""Checkpoints as W&B artifacts: upload without a second copy on the disk, and download by name."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from convatlas.errors import UserError
from convatlas.record.directory import RunDirectory
from convatlas.utils.files import read_lines

if TYPE_CHECKING:
    import wandb

Policy = Literal["none", "best", "best+last"]
"""The checkpoints of a run that are uploaded to W&B."""
TYPE = "model"
PREFIX = "wandb:"
"""Prefix of a checkpoint on the command line that is downloaded from W&B."""


def kept(policy: Policy) -> list[str]:
    """The names of the checkpoints that a policy uploads."""
    return [] if policy == "none" else policy.split("+")


def checkpoint_file(directory: Path, name: str) -> Path:
    """The path of a run's checkpoint."""
    return RunDirectory(directory).checkpoints / f"{name}.ckpt"


def send_checkpoints(run: "wandb.Run", wandb: Any, directory: Path, names: list[str]) -> list["wandb.Artifact"]:
    """Log the checkpoints of a run to its W&B run, which uploads them before it finishes.

    By default W&B copies a file twice. It reads an immutable file that is not cached in place; a hard link preserves
    the file when training replaces the checkpoint.

    Args:
        run: The open W&B run.
        wandb: The module.
        directory: The run's directory.
        names: Names of existing checkpoints.

    Returns:
        The logged artifacts.
    """
    links = Path(run.settings.wandb_dir) / "checkpoints"
    links.mkdir(parents=True, exist_ok=True)
    artifacts = []
    for name in names:
        file = checkpoint_file(directory, name)
        link = links / file.name
        link.unlink(missing_ok=True)
        os.link(file, link)
        step = checkpoint_step(link)
        artifact = wandb.Artifact(run.id, TYPE, metadata=_metadata(directory, name, step))
        artifact.add_file(str(link), name=file.name, policy="immutable", skip_cache=True)
        run.log_artifact(artifact, aliases=[name, f"step-{step}"])
        artifacts.append(artifact)
    return artifacts


def delete_superseded(wandb: Any, path: str, policy: Policy) -> int:
    """Delete the versions of a run's checkpoints that are no longer the best or the last.

    Args:
        wandb: The module.
        path: The artifact, ``entity/project/name``.
        policy: The checkpoints to keep.

    Returns:
        The number of deleted versions.
    """
    superseded = [version for version in wandb.Api().artifacts(TYPE, path) if not {*kept(policy)} & {*version.aliases}]
    for version in superseded:
        version.delete(delete_aliases=True)
    return len(superseded)


def fetch_checkpoint(name: str) -> Path:
    """Download a checkpoint; each version is downloaded once.

    Args:
        name: ``wandb:entity/project/name:alias``; without ``entity/``, the user's own project.

    Returns:
        The file, in the user's cache.

    Raises:
        UserError: There is no such artifact, it does not hold exactly one checkpoint, or the download fails.
    """
    import wandb

    try:
        artifact = wandb.Api().artifact(name.removeprefix(PREFIX), type=TYPE)
        file = _only_checkpoint(name, artifact.manifest.entries)
        version = json.dumps([artifact.entity, artifact.project, artifact.name, artifact.digest])
        cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "convatlas" / "wandb"
        folder = cache / hashlib.sha256(version.encode()).hexdigest()
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as part:
                artifact.download(root=f"{part}/files", skip_cache=True, path_prefix=file)
                with contextlib.suppress(FileExistsError):  # another process was faster
                    Path(part, "files").rename(folder)
    except UserError:
        raise
    except Exception as error:  # wandb raises anything after errors of the network, server or disk
        reason = " ".join(str(error).split())
        raise UserError(
            f"checkpoint={name}: cannot be fetched, expected wandb:entity/project/name:alias ({reason})"
        ) from error
    return folder / file


def _only_checkpoint(name: str, entries: Mapping[str, Any]) -> str:
    """Find the name of the only checkpoint in an artifact's manifest; other files are not downloaded.

    Raises:
        UserError: There is not exactly one, or there are references, which W&B would follow to any file or URL.
    """
    files = [file for file in entries if file.endswith(".ckpt")]
    if len(files) != 1:
        raise UserError(f"checkpoint={name}: {len(files)} checkpoints in that artifact, expected one .ckpt file")
    if references := [entry.ref for entry in entries.values() if entry.ref is not None]:
        raise UserError(f"checkpoint={name}: the artifact refers to {references[0]}, expected the file itself")
    if Path(files[0]).name != files[0]:
        raise UserError(f"checkpoint={name}: the artifact has {files[0]}, expected the file in no folder")
    return files[0]


def checkpoint_step(path: Path) -> int:
    """Read the optimizer step of a checkpoint and verify its checksums, without loading its tensors.

    Raises:
        UserError: The checkpoint is damaged.
    """
    from convatlas.utils.tensors import read_torch_file  # imports PyTorch, which takes seconds

    content = read_torch_file(path, "checkpoint", mmap=True)
    if not isinstance(content, dict) or not isinstance(step := content.get("global_step"), int):
        raise UserError(f"checkpoint={path}: damaged: expected global_step, an integer")
    return step


def _metadata(directory: Path, name: str, step: int) -> dict[str, Any]:
    run = RunDirectory(directory)
    summary = run.summary
    return {
        "run_id": summary["run_id"],
        "checkpoint": name,
        "step": step,
        "class_list": read_lines(run.class_list),
        "config": run.config,
        "metrics": {"best": summary.get("best"), **summary.get("test", {})},
    }
