"""The private attributes of wandb-workspaces that ConvAtlas uses, each checked before it is used."""

from typing import Any

from convatlas.utils.internals import private

SUPPORTED = "wandb-workspaces>=0.4.13,<0.5"


def set_view_name(workspace: Any, name: str) -> None:
    """Choose the name of a new view, which the package would choose at random."""
    private(workspace, "_internal_name", SUPPORTED)
    workspace._internal_name = name


def set_view_id(workspace: Any, earlier: Any | None) -> None:
    """Let a view replace an earlier one, which is read from the server; None creates a new view."""
    private(workspace, "_internal_id", SUPPORTED)
    workspace._internal_id = "" if earlier is None else private(earlier, "_internal_id", SUPPORTED)
