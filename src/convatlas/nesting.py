"""How deeply values from a file are nested: what is deeper than any of ours would exhaust Python's stack."""

from collections.abc import Iterable
from typing import Any

MAX_DEPTH = 60
"""Containers in each other; our own files have fewer than 20."""


def is_nested_too_deeply(value: Any) -> bool:
    """Whether containers lie in each other more than ``MAX_DEPTH`` deep, or one lies in itself.

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


def _members(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
