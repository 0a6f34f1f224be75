"""Save a dashboard, with the panels of the local page, as a view of a W&B project."""

import hashlib
from typing import Any

from convatlas.errors import UserError
from convatlas.report.figures.panels import Axis, Dashboard, Panel
from convatlas.tracking.wandb.internals import set_view_id, set_view_name

AXES: dict[Axis, str] = {"step": "trainer/global_step", "epoch": "epoch", "hours": "RelativeTime(Wall)"}
"""W&B's names of the axes; the mirror logs the first two with every metric."""

ROW = 12
"""Width of half a section, of W&B's 24 columns."""
HEIGHT = 9


def view_name(dashboard: Dashboard) -> str:
    """The part of the view's address that depends only on the title of the dashboard."""
    digest = hashlib.sha256(f"convatlas/{dashboard.title}".encode()).hexdigest()
    return digest[:11]


def apply_workspace(dashboard: Dashboard, entity: str, project: str) -> dict[str, Any]:
    """Create the view of a dashboard in a W&B project, or update an existing one.

    Args:
        dashboard: The panels.
        entity: The W&B user or team.
        project: The project.

    Returns:
        ``url`` of the view, ``panels``: how many it has, ``created``: whether it is new.

    Raises:
        UserError: ``wandb-workspaces`` is not installed, or the server refuses.
    """
    try:
        from wandb.errors import Error
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError
        from wandb_workspaces import workspaces
    except ImportError as error:
        raise UserError("wandb-workspaces is not installed: pip install 'convatlas[workspace]'") from error

    workspace = workspaces.Workspace(
        entity=entity, project=project, name=dashboard.title, sections=[_section(dashboard)]
    )
    # The package finds an existing view by its address, which holds the name: with a fixed name, a second call finds
    # the view of the first.
    set_view_name(workspace, f"nw-{view_name(dashboard)}-v")
    try:
        earlier = _find(workspaces, workspace.url)
        set_view_id(workspace, earlier)
        workspace.save()
    except (Error, WandbApiFailedError) as error:
        raise UserError(f"project={entity}/{project}: W&B refuses the view ({' '.join(str(error).split())})") from error
    return {"url": workspace.url, "panels": len(dashboard.panels), "created": earlier is None}


def _find(workspaces: Any, url: str) -> Any:
    try:
        return workspaces.Workspace.from_url(url)
    except ValueError:  # the package raises this if there is no such view
        return None


def _section(dashboard: Dashboard) -> Any:
    from wandb_workspaces import workspaces

    panels = [_line_plot(position, panel) for position, panel in enumerate(dashboard.panels.values())]
    return workspaces.Section(name=dashboard.title, panels=panels, is_open=True)


def _line_plot(position: int, panel: Panel) -> Any:
    from wandb_workspaces.reports import v2

    grouped = {"groupby": "Group", "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"} if panel.group else {}
    return v2.LinePlot(
        title=panel.title,
        x=AXES[panel.axis],
        y=list(panel.metrics),
        log_y=panel.logarithmic,
        range_y=(0, None) if panel.from_zero else (None, None),
        smoothing_type="exponentialTimeWeighted" if panel.smoothing else "none",
        smoothing_factor=panel.smoothing,
        smoothing_show_original=True,
        point_visualization_method="bucketing-gorilla",
        layout=v2.Layout(x=position % 2 * ROW, y=position // 2 * HEIGHT, w=ROW, h=HEIGHT),
        **grouped,
    )
