"""Files that hold several sets of weights: which are taken, what is said of the others, and the key to choose."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet
from convatlas.models.segmentation.fcn import FCN
from convatlas.models.weights import load_backbone, load_weights


def net(seed: int = 0) -> CifarResNet:
    torch.manual_seed(seed)
    return CifarResNet(depth=8, in_channels=1)


RAW, AVERAGE = net(1).state_dict(), net(2).state_dict()


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def averaged_model() -> dict[str, Tensor]:
    """The average as torchvision's references save it: with a count, and a prefix."""
    average = AveragedModel(net())
    average.module.load_state_dict(AVERAGE)
    return average.state_dict()


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
LAYOUTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "timm": ({"state_dict": RAW, "state_dict_ema": AVERAGE, "epoch": 3}, "state_dict", "state_dict_ema"),
    "timm before 0.5": ({"state_dict": RAW, "model_ema": AVERAGE}, "state_dict", "model_ema"),
    "torchvision": ({"model": RAW, "model_ema": averaged_model()}, "model", "model_ema"),
    "mmengine": ({"state_dict": RAW, "ema_state_dict": prefixed("module.", AVERAGE)}, "state_dict", "ema_state_dict"),
    "nested": ({"model": RAW, "ema": {"decay": 0.99, "module": AVERAGE}}, "model", "ema.module"),
    "Lightning": (
        {"state_dict": prefixed("net.", AVERAGE), "current_model_state": prefixed("net.", RAW)},
        "state_dict",
        "current_model_state",
    ),
    "one mapping": (
        {"state_dict": prefixed("net.", RAW) | prefixed("ema_net.", AVERAGE)},
        "state_dict",
        "state_dict.ema_net",
    ),
    "without dots and buffers": (
        {
            "state_dict": RAW,
            "ema": {name.replace(".", ""): value for name, value in AVERAGE.items() if "running" not in name},
        },
        "state_dict",
        "",
    ),
}


def equal(found: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in found.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_other_weights_of_a_file_are_named_and_can_be_taken(layout: str, tmp_path: Path) -> None:
    content, entry, other = LAYOUTS[layout]
    usual, asked_for = (AVERAGE, RAW) if layout == "Lightning" else (RAW, AVERAGE)
    torch.save(content | {"optimizer": OPTIMIZER}, tmp_path / "w.pth")
    target = net()
    report = load_weights(target, f"{tmp_path}/w.pth")
    assert equal(target, usual)
    assert (report.entry, report.others) == (entry, (other or "ema",))
    average = ", an average" if layout == "Lightning" else ""
    assert f"w.pth ({entry}{average}): 44 tensors loaded; also in the file, for weights_entry: {other or 'ema'}" in str(
        report
    )
    if other:
        report = load_weights(target, f"{tmp_path}/w.pth", entry=other)
        assert equal(target, asked_for)
        assert report.entry == other
        assert report.others[0].startswith(entry)


@pytest.mark.parametrize("content", [{"state_dict": RAW, "optimizer": OPTIMIZER, "epoch": 3}, RAW])
def test_a_file_with_one_set_of_weights_names_no_other(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    report = load_weights(net(), f"{tmp_path}/w.pth")
    assert report.others == ()
    assert f"{tmp_path}/w.pth: 44 tensors loaded" in str(report)


def test_an_entry_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    torch.save({"state_dict": RAW, "state_dict_ema": AVERAGE, "optimizer": OPTIMIZER}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"model\.weights_entry=ema: .*; it has state_dict, state_dict_ema$"):
        load_weights(net(), f"{tmp_path}/w.pth", entry="ema")
    torch.save({"teacher": RAW, "student": AVERAGE}, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"expected a state dict.*; model\.weights_entry takes one of teacher, student$"
    ):
        load_weights(net(), f"{tmp_path}/w.pth")
    torch.save(RAW, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"model\.weights_entry=ema: .* it has none$"):
        load_weights(net(), f"{tmp_path}/w.pth", entry="ema")


def test_a_backbone_has_the_same_choice(tmp_path: Path) -> None:
    torch.save({"state_dict": RAW, "state_dict_ema": AVERAGE}, tmp_path / "w.pth")
    target = FCN(backbone=net(), num_classes=3)
    report = load_backbone(target, f"{tmp_path}/w.pth")
    assert torch.equal(target.backbone.conv1.weight, RAW["conv1.weight"])
    assert report.others == ("state_dict_ema",)
    load_backbone(target, f"{tmp_path}/w.pth", entry="state_dict_ema")
    assert torch.equal(target.backbone.conv1.weight, AVERAGE["conv1.weight"])
    with pytest.raises(UserError, match=r"model\.backbone\.weights_entry=ema: "):
        load_backbone(target, f"{tmp_path}/w.pth", entry="ema")
