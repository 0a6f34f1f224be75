"""Checked access to private attributes of other packages."""

from typing import Any

from convatlas.errors import UserError


def private(owner: object, name: str, supported: str) -> Any:
    """Read a private attribute of an object that belongs to another package.

    Args:
        owner: The object.
        name: The attribute.
        supported: Package and versions that have the attribute, as in ``pyproject.toml``.

    Raises:
        UserError: The attribute does not exist: another version of the package is installed.
    """
    if not hasattr(owner, name):
        raise UserError(f"{type(owner).__name__}.{name} does not exist in the installed version; expected {supported}")
    return getattr(owner, name)
