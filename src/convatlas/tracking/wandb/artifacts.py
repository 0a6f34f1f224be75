"""Checkpoints as W&B artifacts: sent without a second copy on the disk, and fetched by name."""

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
"""Which checkpoints of a run go to W&B."""
TYPE = "model"
PREFIX = "wandb:"
"""What a checkpoint's name on the command line begins with that is fetched from W&B."""


def kept(policy: Policy) -> list[str]:
    """The names of the checkpoints that a policy sends."""
    return [] if policy == "none" else policy.split("+")


def checkpoint_file(directory: Path, name: str) -> Path:
    """Where a run keeps a checkpoint."""
    return RunDirectory(directory).checkpoints / f"{name}.ckpt"


def send_checkpoints(run: "wandb.Run", wandb: Any, directory: Path, names: list[str]) -> list["wandb.Artifact"]:
    """Hand the checkpoints of a run over to its W&B run, which uploads them until it is finished.

    W&B would copy a file twice. An immutable file that is not cached it reads where it lies; a hard link keeps what was
    handed over when training replaces the checkpoint.

    Args:
        run: The open W&B run.
        wandb: The module.
        directory: The run's directory.
        names: Which; they are there.

    Returns:
        What was handed over.
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
        policy: Which are to stay.

    Returns:
        How many were deleted.
    """
    superseded = [version for version in wandb.Api().artifacts(TYPE, path) if not {*kept(policy)} & {*version.aliases}]
    for version in superseded:
        version.delete(delete_aliases=True)
    return len(superseded)


def fetch_checkpoint(name: str) -> Path:
    """Download a checkpoint, once a version.

    Args:
        name: ``wandb:entity/project/name:alias``, or without ``entity/`` in the user's own.

    Returns:
        The file, in the user's cache.

    Raises:
        UserError: There is no such artifact, it holds something else than one checkpoint, or it cannot be fetched.
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
    except Exception as error:  # whatever the name, the network, the server and the disk make wandb raise
        reason = " ".join(str(error).split())
        raise UserError(
            f"checkpoint={name}: cannot be fetched, expected wandb:entity/project/name:alias ({reason})"
        ) from error
    return folder / file


def _only_checkpoint(name: str, entries: Mapping[str, Any]) -> str:
    """The one checkpoint in an artifact's manifest, by its name; other files are not fetched.

    Raises:
        UserError: There is another number of them, or there are references, which W&B would follow to any file or URL.
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
    """The optimizer step of a checkpoint whose checksums are right; its tensors do not fill the memory.

    Raises:
        UserError: It is damaged.
    """
    from convatlas.utils.tensors import read_torch_file  # imports PyTorch: seconds, which a publisher pays only here

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
