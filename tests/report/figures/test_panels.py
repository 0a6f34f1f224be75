from typing import Any

import pytest
from hydra.utils import instantiate

from convatlas.config.composition import check_config, compose
from convatlas.errors import UserError
from convatlas.report.figures.panels import Dashboard, Panel

LOSS = Panel("Loss", ["train/loss", "val/loss"], smoothing=0.5)


def test_panels_have_the_metrics_that_were_logged_and_others_follow() -> None:
    found = Dashboard("D", {"loss": LOSS, "top5": Panel("Top-5", ["val/top5"])}).panels_for(
        ["val/mean_iou", "train/loss", "train/mean_iou", "test/top1", "train/loss"]
    )
    assert list(found) == ["loss", "mean_iou"]
    assert found["loss"].metrics == ["train/loss"]
    assert found["loss"].smoothing == 0.5
    assert (found["mean_iou"].title, found["mean_iou"].metrics) == ("Mean IoU", ["train/mean_iou", "val/mean_iou"])


def test_others_can_be_left_out() -> None:
    assert Dashboard("D", {"loss": LOSS}, others=False).panels_for(["val/iou"]) == {}


def test_a_panel_is_changed_from_the_command_line() -> None:
    config = compose("report", ["run=x", "+dashboard.panels.loss.axis=epoch", "~dashboard.panels.top5"])
    check_config(config, {})
    dashboard: Dashboard = instantiate(config.dashboard)
    assert dashboard.panels["loss"].axis == "epoch"
    assert "top5" not in dashboard.panels


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dashboard.panels.loss.smoothing=1", r"dashboard\.panels\.loss\.smoothing=1: expected"),
        ("+dashboard.panels.loss.axis=time", r"dashboard\.panels\.loss\.axis=time: expected one of step, epoch, hours"),
        ("+dashboard.panels.loss.colour=red", r"dashboard\.panels\.loss\.colour: .* takes no such argument"),
    ],
)
def test_a_mistake_in_a_dashboard_names_its_key(override: str, message: Any) -> None:
    with pytest.raises(UserError, match=message):
        check_config(compose("report", ["run=x", override]), {})
