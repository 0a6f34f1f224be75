"""List the groups of options, or the options of one group.

    convatlas list
    convatlas list model

An option is chosen with GROUP=OPTION, such as `convatlas train model=resnet50`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.config.composition import project_path, verb_keys
from convatlas.errors import UserError
from convatlas.utils.console import print_fields

FIRST_VERBS = ("train", "evaluate", "submit")
"""Verbs whose comments describe a group best; the others follow."""


def list(config: DictConfig) -> dict[str, Any]:
    """List what the command line can choose from.

    Args:
        config: Composed from ``conf/list.yaml``.

    Returns:
        ``group``, and ``options``: a description of each option by its name, or of each group if ``group`` is None.

    Raises:
        UserError: There is no such group.
    """
    groups = _groups()
    if config.group is None:
        return {"group": None, "options": groups}
    if config.group not in groups:
        raise UserError(f"group={config.group}: expected one of {', '.join(groups)}")
    folder = project_path("conf") / config.group
    return {
        "group": config.group,
        "options": {
            option.relative_to(folder).with_suffix("").as_posix(): _first_comment(option)
            for option in sorted(folder.rglob("*.yaml"))
        },
    }


def _groups() -> dict[str, str]:
    """The groups that a verb takes, each with the comment beside its default."""
    conf = project_path("conf")
    found: dict[str, str] = {}
    for verb in dict.fromkeys([*FIRST_VERBS, *sorted(path.stem for path in conf.glob("*.yaml"))]):
        text = (conf / f"{verb}.yaml").read_text(encoding="utf-8")
        comments = dict(re.findall(r"^ +- (?:optional )?(\w+):[^#\n]*#? ?(.*)$", text, re.MULTILINE))
        for key in verb_keys(verb):
            if (conf / key).is_dir() and not found.get(key):
                found[key] = comments.get(key, "")
    return dict(sorted(found.items()))


def _first_comment(path: Path) -> str:
    """The first comment line of a configuration file that is not a directive of Hydra."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = (line[1:].strip() for line in lines if line.startswith("#") and "@package" not in line)
    return next(comments, "")


def show(result: Mapping[str, Any]) -> None:
    """Print one line for each option."""
    print_fields(result["options"])


if __name__ == "__main__":
    execute(list, show, {"group": str | None}, bare_key="group")
