import json
import subprocess
from pathlib import Path

import pytest

from convatlas.jobs.snapshot import snapshot
from convatlas.record.provenance import STATE, source_state


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one commit, one change to it, one new file and one that is ignored."""
    source = tmp_path / "checkout"
    for folder in ("src/convatlas", "conf", "runs"):
        (source / folder).mkdir(parents=True)
    (source / "pyproject.toml").touch()
    (source / ".gitignore").write_text("*.pyc\n", encoding="utf-8")
    (source / "src/convatlas/a.py").write_text("a = 1\n", encoding="utf-8")
    git = ["git", "-C", str(source), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (source / "src/convatlas/a.py").write_text("a = 2\n", encoding="utf-8")
    (source / "conf/mine.yaml").write_text("seed: 1\n", encoding="utf-8")
    (source / "src/convatlas/a.pyc").touch()
    return source


def test_a_snapshot_holds_tracked_and_new_files_as_they_are_on_the_disk(checkout: Path, tmp_path: Path) -> None:
    copy = snapshot(checkout, tmp_path / "source")
    files = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert files == ["conf/mine.yaml", STATE, "src/convatlas/a.py"]
    assert (copy / "src/convatlas/a.py").read_text(encoding="utf-8") == "a = 2\n"
    assert source_state(copy) == source_state(checkout)
    assert "+a = 2" in json.loads((copy / STATE).read_text(encoding="utf-8"))["diff"]


def test_equal_sources_share_a_snapshot(checkout: Path, tmp_path: Path) -> None:
    first = snapshot(checkout, tmp_path / "source")
    assert snapshot(checkout, tmp_path / "source") == first
    (checkout / "src/convatlas/a.py").write_text("a = 3\n", encoding="utf-8")
    second = snapshot(checkout, tmp_path / "source")
    assert (first / "src/convatlas/a.py").read_text(encoding="utf-8") == "a = 2\n"
    assert sorted((tmp_path / "source").iterdir()) == sorted([first, second])
