"""Copy the source of a job at submission, so that later edits do not change a queued job."""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from convatlas.config.composition import project_path
from convatlas.errors import UserError
from convatlas.record.provenance import SOURCE, STATE, source_state
from convatlas.utils.files import dumps

FOLDERS = ("src", "conf", "pipelines", "slurm")
"""Folders of a checkout that a job needs."""


def is_checkout() -> bool:
    """Whether this code runs from a git checkout, which may be edited while a job waits."""
    return (SOURCE / ".git").exists()


def scripts_of(source: Path) -> Path:
    """The folder with the batch scripts of a source."""
    return source / "slurm" if (source / "slurm").is_dir() else project_path("slurm")


def snapshot(source: Path, root: Path) -> Path:
    """Copy the source into a folder named after its content; equal sources share a copy.

    The copy holds the tracked files as they are on the disk, and the new files that git does not ignore, such as a
    recipe that is not committed yet.

    Args:
        source: The top of a checkout.
        root: The folder of the snapshots.

    Returns:
        The copy. The file ``provenance.STATE`` in it holds the commit and the changes.

    Raises:
        UserError: Git refuses.
    """
    listing = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard", *FOLDERS]
    done = subprocess.run(listing, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False)
    if done.returncode:
        raise UserError(
            f"{source}: git cannot list the source that the job is to run ({' '.join(done.stderr.split())})"
        )
    files = sorted(Path(name) for name in set(done.stdout.split("\0")) if name and (source / name).is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0".encode() + (source / file).read_bytes() + b"\0")
    target = root.resolve() / digest.hexdigest()[:12]
    if not target.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, ignore_cleanup_errors=True) as directory:
            partial = Path(directory) / "source"
            for file in files:
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, partial / file)
            (partial / STATE).write_text(dumps(source_state(source), indent=2), encoding="utf-8")
            try:
                partial.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another submission was faster
                    raise
    return target
