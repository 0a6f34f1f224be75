"""Restore the source of a recorded run from git."""

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convatlas.errors import UserError
from convatlas.record.provenance import source_state

INSTEAD = "; code=current runs today's code instead"


@contextmanager
def recorded_source(state: Mapping[str, Any] | None, checkout: Path) -> Iterator[Path]:
    """Check out the commit of a run into a temporary folder and apply its uncommitted changes.

    The checkout is only read. Untracked files are not part of a record.

    Args:
        state: The recorded result of ``source_state``.
        checkout: The top of a git checkout that has the commit.

    Yields:
        The top of the source, which exists until the context ends.

    Raises:
        UserError: The record names no commit, the checkout does not have it, or the changes cannot be applied.
    """
    if state is None:
        raise UserError(f"code=recorded: the record names no git commit: an installed package ran{INSTEAD}")
    commit = state["commit"]
    name = f"code=recorded: commit {commit[:12]}"
    if not (checkout / ".git").exists():
        raise UserError(f"{name}: {checkout} is no git checkout; give the command from one that has it{INSTEAD}")
    if _git(checkout, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise UserError(f"{name} is not in {checkout}: fetch it{INSTEAD}")
    with tempfile.TemporaryDirectory(prefix="convatlas-") as folder:
        source = Path(folder) / "source"
        steps = [
            (checkout, ["clone", "--quiet", "--shared", "--no-checkout", ".", str(source)], ""),
            (source, ["checkout", "--quiet", "--detach", commit], ""),
        ]
        if state["diff"]:
            steps.append((source, ["apply", "--index", "--whitespace=nowarn", "-"], state["diff"]))
        for directory, arguments, text in steps:
            done = _git(directory, *arguments, text=text)
            if done.returncode:
                raise UserError(f"{name}: git {arguments[0]} failed ({' '.join(done.stderr.split())}){INSTEAD}")
        made = source_state(source)
        if made is None or made["commit"] != commit or _content(made["diff"]) != _content(state["diff"]):
            raise UserError(f"{name}: its recorded changes, applied again, are others{INSTEAD}")
        yield source


def describe(state: Mapping[str, Any] | None) -> str:
    """Describe a recorded source in a few words."""
    if state is None:
        return "an installed package"
    return f"commit {state['commit'][:12]}" + (" with uncommitted changes" if state["dirty"] else "")


def _content(diff: str) -> str:
    """Remove the abbreviated blob names from a diff: their length depends on the repository."""
    return re.sub(r"^index .*$", "", diff, flags=re.MULTILINE)


def _git(directory: Path, *arguments: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    command = ["git", "-C", str(directory), *arguments]
    return subprocess.run(
        command, input=text, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
    )
