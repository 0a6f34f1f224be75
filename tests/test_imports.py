"""The layout: imports go one way, packages and functions stay small."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
LAYERS = (
    ("errors",),
    ("utils",),
    ("config",),
    ("data", "models", "record"),
    ("cli", "tasks", "report"),
    ("__main__", "tracking"),
    ("training",),
    ("analysis", "jobs"),
    ("sweep", "studies"),
)
"""Packages and modules from the bottom up; those of one layer import each other's layers below, and not each other."""
MODULES = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("convatlas"):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("convatlas"))


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: {other for other in imported(tree) if other != name} for name, tree in TREES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(error.args[1]))


def test_no_package_imports_one_of_its_own_layer_or_above() -> None:
    level = {name: number for number, names in enumerate(LAYERS) for name in names}
    upward = []
    for name, tree in TREES.items():
        package = name.split(".")[1]
        for other in imported(tree):
            below = other.split(".")[1] if "." in other else package
            if below != package and package != "__init__" and level[below] >= level[package]:
                upward.append(f"{name} imports {other}")
    assert upward == []


def test_a_package_has_at_most_14_modules() -> None:
    folders = [folder for folder in (SOURCE / "convatlas").rglob("*") if folder.is_dir()]
    counts = {folder.name: len([file for file in folder.glob("*.py") if file.stem[0] != "_"]) for folder in folders}
    assert {name: count for name, count in counts.items() if count > 14} == {}


def test_two_classes_never_share_a_name() -> None:
    nodes = [node for tree in TREES.values() for node in ast.walk(tree)]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def length(function: ast.FunctionDef) -> int:
    first = function.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    lines = (function.end_lineno or 0) - function.lineno + 1
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if docstring else 0)


def test_a_function_has_at_most_50_lines_beside_its_docstring() -> None:
    functions = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]
    long = {
        f"{name}.{node.name}": length(node)
        for name, node in functions
        if isinstance(node, ast.FunctionDef) and length(node) > 50
    }
    assert long == {}
