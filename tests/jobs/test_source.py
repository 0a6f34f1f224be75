import subprocess
from pathlib import Path
from typing import Any

import pytest

from convatlas.errors import UserError
from convatlas.jobs.source import describe, recorded_source
from convatlas.record.provenance import source_state


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(repository), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit."""
    path = tmp_path / "checkout"
    (path / "src").mkdir(parents=True)
    (path / "pyproject.toml").touch()
    (path / "src/a.py").write_text("a = 1\nb = 1\n", encoding="utf-8")
    git(path, "init", "-q")
    git(path, "add", ".")
    git(path, "commit", "-qm", "first")
    return path


@pytest.fixture
def recorded(checkout: Path) -> dict[str, Any]:
    """The state of a changed file and a new one, which the checkout has left behind since."""
    (checkout / "src/a.py").write_text("a = 2\nb = 1\n", encoding="utf-8")
    (checkout / "src/new.py").write_text("c = 3\n", encoding="utf-8")
    git(checkout, "add", "src/new.py")
    state = source_state(checkout)
    assert state is not None
    assert state["dirty"]
    git(checkout, "reset", "-q", "--hard")
    (checkout / "src/a.py").write_text("a = 1\nb = 7\n", encoding="utf-8")
    git(checkout, "commit", "-qam", "second")
    return state


def test_the_commit_and_its_changes_come_back_and_the_checkout_stays_as_it_is(
    checkout: Path, recorded: dict[str, Any]
) -> None:
    before = git(checkout, "status", "--porcelain=v2", "--branch"), git(checkout, "worktree", "list")
    with recorded_source(recorded, checkout) as source:
        assert (source / "src/a.py").read_text(encoding="utf-8") == "a = 2\nb = 1\n"
        assert (source / "src/new.py").read_text(encoding="utf-8") == "c = 3\n"
        assert source_state(source) == recorded
    assert not source.exists()
    assert (checkout / "src/a.py").read_text(encoding="utf-8") == "a = 1\nb = 7\n"
    assert (git(checkout, "status", "--porcelain=v2", "--branch"), git(checkout, "worktree", "list")) == before


def test_changes_that_do_not_fit_their_commit_are_refused(checkout: Path, recorded: dict[str, Any]) -> None:
    state = recorded | {"diff": recorded["diff"].replace("-a = 1", "-a = 5")}
    with (
        pytest.raises(UserError, match=r"^code=recorded: commit .*: git apply failed"),
        recorded_source(state, checkout),
    ):
        pass


def test_an_incomplete_diff_is_refused(checkout: Path, recorded: dict[str, Any]) -> None:
    state = recorded | {"diff": recorded["diff"] + "\nbinary files differ\n"}
    with pytest.raises(UserError, match="applied again, are others"), recorded_source(state, checkout):
        pass


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "the record names no git commit"),
        ({"commit": "0" * 40, "dirty": False, "diff": ""}, "commit 000000000000 is not in "),
    ],
)
def test_a_missing_commit_is_refused_with_a_hint_at_code_current(
    checkout: Path, state: dict[str, Any] | None, message: str
) -> None:
    refused = pytest.raises(UserError, match=rf"^code=recorded: {message}.*code=current")
    with refused, recorded_source(state, checkout):
        pass


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path, recorded: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is no git checkout"), recorded_source(recorded, tmp_path):
        pass


def test_a_source_is_named_by_its_commit(recorded: dict[str, Any]) -> None:
    assert describe(recorded) == f"commit {recorded['commit'][:12]} with uncommitted changes"
    assert describe(None) == "an installed package"
