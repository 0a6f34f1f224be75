"""Check values that were read from a file for deep nesting and for text that UTF-8 cannot encode."""

import re
from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 60
"""Largest depth of nested containers; the files of ConvAtlas have fewer than 20 levels."""


def is_nested_too_deeply(value: Any) -> bool:
    """Whether containers are nested more than ``MAX_DEPTH`` deep, or one contains itself.

    Args:
        value: Built-in containers and anything else.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        inside = (item for container in level for item in _members(container))
        level = list({id(item): item for item in inside if isinstance(item, dict | list | tuple)}.values())
        if not level:
            return False
    return True


def is_writable(value: Any) -> bool:
    """Whether UTF-8 can encode all strings of a value; an escape in JSON or YAML may be half a surrogate pair.

    Args:
        value: Built-in containers and anything else.
    """
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if re.search("[\ud800-\udfff]", item):
                return False
        elif isinstance(item, dict | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            pending += [*_members(item), *(item if isinstance(item, dict) else ())]
    return True


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
