"""A dashboard as a view of a W&B project, with the real packages against a server on loopback."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from convatlas.config.composition import compose
from convatlas.errors import UserError
from pipelines.workspace import workspace
from tests.wandb_server import KEY, WandbServer

Command = Callable[..., subprocess.CompletedProcess[str]]


class ViewServer(WandbServer):
    """A W&B server that keeps saved views."""

    def __init__(self) -> None:
        self.views: dict[str, dict[str, Any]] = {}
        super().__init__()

    def _op_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        found = [view for view in self.views.values() if view["name"] == variables["viewName"]]
        return {"project": {"allViews": {"edges": [{"node": view} for view in found]}}}

    def _op_upsertview2(self, variables: dict[str, Any]) -> dict[str, Any]:
        key = variables.get("id") or f"view-{len(self.views)}"
        inserted = key not in self.views
        self.views[key] = {**variables, "id": key}
        return {"upsertView": {"view": {"id": key, "name": variables["name"]}, "inserted": inserted}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ViewServer]:
    pytest.importorskip("wandb_workspaces")
    running = ViewServer()
    with running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield running
        assert running.unknown == []


def apply(command: Command, *overrides: str) -> dict[str, Any]:
    done = command("workspace", "project=lab/atlas", "format=json", *overrides)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_dashboard_applied_twice_is_one_view_brought_up_to_date(server: ViewServer, convatlas: Command) -> None:
    first = apply(convatlas)
    (view,) = server.views.values()
    again = apply(convatlas, "dashboard.panels.loss.title=Both losses")
    (changed,) = server.views.values()
    assert (first["created"], again["created"]) == (True, False)
    assert first["url"] == again["url"]
    assert first["url"].startswith(f"{server.url}/lab/atlas?nw=")
    assert (view["id"], view["name"], view["displayName"]) == (changed["id"], changed["name"], "ConvAtlas")
    assert '"Both losses"' in changed["spec"]
    assert '"Both losses"' not in view["spec"]
    other = apply(convatlas, "dashboard.title=Sweeps")
    assert other["url"] != first["url"]
    assert len(server.views) == 2


def test_the_view_has_the_panels_of_the_local_page(server: ViewServer, convatlas: Command) -> None:
    apply(convatlas, "+dashboard.panels.loss.logarithmic=true", "+dashboard.panels.top1.group=false")
    (view,) = server.views.values()
    (section,) = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    plots = [panel["config"] for panel in section["panels"]]
    dashboard = compose("workspace", ["project=a/b"]).dashboard
    assert [plot["chartTitle"] for plot in plots] == [panel.title for panel in dashboard.panels.values()]
    assert [plot["metrics"] for plot in plots] == [list(panel.metrics) for panel in dashboard.panels.values()]
    loss, top1 = plots[:2]
    assert {plot["xAxis"] for plot in plots} == {"trainer/global_step"}
    assert (loss["smoothingType"], loss["smoothingWeight"]) == ("exponentialTimeWeighted", 0.9)
    assert (loss["yLogScale"], loss["groupBy"], loss["groupArea"]) == (True, "group", "stddev")
    assert "groupBy" not in top1


def test_a_refusal_is_told_with_its_reason(server: ViewServer, convatlas: Command) -> None:
    server.refused["UpsertView2"] = "you may not write to lab/atlas"
    done = convatlas("workspace", "project=lab/atlas")
    assert done.returncode == 2
    assert "project=lab/atlas: W&B refuses the view" in done.stderr
    assert "you may not write to lab/atlas" in done.stderr


@pytest.mark.parametrize("project", ["atlas", "lab/", "/atlas", "a/b/c"])
def test_a_project_names_its_entity(project: str) -> None:
    with pytest.raises(UserError, match=r"^project=.*: expected entity/project"):
        workspace(compose("workspace", [f"project={project}"]))
