"""Put a dashboard into a W&B project as a saved view.

    convatlas workspace project=my-team/convatlas
    convatlas workspace project=my-team/convatlas dashboard=default dashboard.title=Sweeps

The panels are those of `convatlas report` and `convatlas dashboard`, from the same conf/dashboard/*.yaml. The same
title is the same view: called again, the command brings it up to date. Needs WANDB_API_KEY or `wandb login`, and
the extra package: pip install 'convatlas[workspace]'.
"""

from collections.abc import Mapping
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.errors import UserError
from convatlas.tracking.wandb.workspace import apply_workspace
from convatlas.utils.console import print_fields


def workspace(config: DictConfig) -> dict[str, Any]:
    """Create or update the view.

    Args:
        config: Composed from ``conf/workspace.yaml``.

    Returns:
        ``url`` of the view, ``panels``: how many it has, ``created``: whether it is new.

    Raises:
        UserError: ``project`` is not of the form entity/project, the package is missing, or the server refuses.
    """
    entity, _, project = config.project.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"project={config.project}: expected entity/project, such as my-team/convatlas")
    return apply_workspace(instantiate(config.dashboard), entity, project)


def show(result: Mapping[str, Any]) -> None:
    """Print where the view is."""
    done = "created" if result["created"] else "brought up to date"
    print_fields({"workspace": result["url"], "view": f"{done}, {result['panels']} panels"})


if __name__ == "__main__":
    execute(workspace, show, {"project": str})
