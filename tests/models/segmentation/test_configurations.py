"""Every configuration of ``conf/model`` that segments."""

import re

import pytest
import torch

from convatlas.analysis.networks import described_config, described_networks, model_names
from convatlas.models.segmentation.segmenter import Segmenter
from pipelines.describe import describe, show
from tests.models.zoo import FILES, load

NAMES = model_names("segmentation")


def test_there_are_configurations() -> None:
    assert len(NAMES) >= 16
    assert not set(NAMES) & set(model_names())


@pytest.mark.parametrize("name", NAMES)
def test_the_first_line_says_what_there_is(name: str) -> None:
    (network,) = described_networks(described_config("describe", [f"model={name}"]))
    assert isinstance(network.net, Segmenter)
    result = describe(described_config("describe", [f"model={name}"]))
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    assert load(name).name == name
    printed = re.search(r": ([0-9.]+) M parameters at (\d+) classes", lines[0])
    assert printed is not None
    classes = described_config("describe", [f"model={name}", f"data.num_classes={printed.group(2)}"])
    assert f"{describe(classes)['parameters'] / 1e6:.2f}" == printed.group(1)
    assert result["num_classes"] == 21
    assert result["multiply_adds"] > 1e10
    side = network.net.image_size
    with torch.inference_mode():
        logits = network.net.eval()(torch.empty(1, 3, side, side, device="meta"))
    assert logits.shape == (1, 21, network.net.output_size(side), network.net.output_size(side))


def test_describe_shows_upsampling(capsys: pytest.CaptureFixture[str]) -> None:
    show(describe(described_config("describe", ["model=unet"])))
    text = capsys.readouterr().out
    assert "transposed 2×2, 512, ×2" in text
    show(describe(described_config("describe", ["model=deeplabv3_resnet50_torchvision"])))
    text = capsys.readouterr().out
    assert "upsample ×8" in text
    assert "39,638,869; auxiliary heads, in training only: 2,365,205" in text
