"""Texts are UTF-8 on every machine, whatever its locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.fixtures import write_image_folder

ROOT = Path(__file__).parents[1]
LATIN = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
"""An environment in which Python takes texts for ASCII."""


def test_every_text_file_is_opened_as_utf8() -> None:
    """ruff's PLW1514 sees only what it knows to be a path or a file."""
    found = []
    for folder in ("src", "pipelines", "benchmarks", "scripts"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                mode = [value.value for value in node.args[:1] if isinstance(value, ast.Constant)]
                is_text = (
                    node.func.attr in ("read_text", "write_text")
                    or (node.func.attr == "open" and mode in (["r"], ["w"], ["a"], ["x"]))
                    or (node.func.attr in ("run", "Popen", "check_output") and "text" in given)
                )
                if is_text and "encoding" not in given:
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def test_names_and_pages_are_the_same_under_a_locale_that_is_not_utf8(tmp_path: Path) -> None:
    write_image_folder(tmp_path / "images", ["straße", "鳥"], per_class=4, size=32)
    settings = ["data=imagefolder", "data.root=images", "data.image_size=32", "data.resize=null", "augment=none"]

    def convatlas(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "convatlas", *arguments],
            cwd=tmp_path,
            env={**os.environ, **LATIN},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    convatlas("train", "debug=fast", *settings, "data.global_batch_size=4", "tracking=none")
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "class_list.txt").read_text(encoding="utf-8") == "straße\n鳥\n"
    convatlas("report", f"run={run}")
    assert "straße" in (run / "report.html").read_text(encoding="utf-8")
    assert "鳥" in convatlas("predict", f"checkpoint={run}", "images=images/val")
    assert "…" in convatlas("train", "--help")
