import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from PIL import Image

from convatlas.analysis.layers import analyse
from convatlas.analysis.pictures import TILE, filter_grid, graph_rows, write_filters, write_graph
from convatlas.models.classification.alexnet import AlexNet
from convatlas.models.classification.classifier import Classifier
from convatlas.models.classification.googlenet import GoogLeNet
from convatlas.models.classification.resnet import CifarResNet, ResNet


def on_meta(net: type[Classifier], **arguments: object) -> Classifier:
    with torch.device("meta"):
        return net(**arguments)


def test_identical_blocks_are_one_row() -> None:
    rows = graph_rows(analyse(on_meta(ResNet, depth=50), 224).layers)
    assert [(row.name, row.count) for row in rows] == [
        ("conv1", 1),
        ("maxpool", 1),
        ("layer1.0", 1),
        ("layer1.1 … layer1.2", 2),
        ("layer2.0", 1),
        ("layer2.1 … layer2.3", 3),
        ("layer3.0", 1),
        ("layer3.1 … layer3.5", 5),
        ("layer4.0", 1),
        ("layer4.1 … layer4.2", 2),
        ("average_pool", 1),
        ("fc", 1),
    ]
    assert rows[0].label == "7×7, 64, /2"
    assert rows[3].label == "1×1, 64 → 3×3, 64 → 1×1, 256  +  identity"
    assert rows[4].label == "1×1, 128, /2 → 3×3, 128 → 1×1, 512  +  1×1, 512, /2"
    assert (rows[3].first_receptive_field, rows[3].receptive_field) == (27, 35)
    fields = [row.receptive_field for row in rows]
    assert all(before <= after for before, after in itertools.pairwise(fields))


def test_branches_stand_side_by_side() -> None:
    rows = {row.name: row for row in graph_rows(analyse(on_meta(GoogLeNet), 224).layers)}
    assert rows["inception3a"].label == (
        "1×1, 64  |  1×1, 96 → 3×3, 128  |  1×1, 16 → 5×5, 32  |  max pool 3×3 → 1×1, 32"
    )
    assert rows["conv1"].label == "7×7, 64, /2"


def test_groups_and_dilation_are_shown() -> None:
    labels = [row.label for row in graph_rows(analyse(on_meta(AlexNet), 224).layers)]
    assert "5×5, 256, 2 groups" in labels
    dilated = graph_rows(analyse(on_meta(ResNet, depth=50, output_stride=8), 224).layers)
    assert dilated[-3].label == "1×1, 512 → 3×3, 512, dilation 4 → 1×1, 2048  +  identity"


def test_the_picture_is_an_image_file_on_its_own(tmp_path: Path) -> None:
    net = on_meta(ResNet, depth=34)
    write_graph("<resnet>", analyse(net, 224), 224, tmp_path / "net.svg")
    root = ET.fromstring((tmp_path / "net.svg").read_text(encoding="utf-8"))  # noqa: S314  our own file
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    caption = "receptive field; light: after the last of several"
    for text in ("<resnet>", caption, "layer2.0", "layer4.1 … layer4.2", "899", "224 pixels"):
        assert text in texts
    bars = [element for element in root.iter("{http://www.w3.org/2000/svg}rect") if element.get("class") == "bar"]
    widths = [float(bar.get("width", 0)) for bar in bars]
    assert widths == sorted(widths)
    assert max(widths) <= 300


@pytest.mark.parametrize(("in_channels", "grey"), [(1, True), (3, False), (4, True)])
def test_filters_are_tiles_stretched_to_their_own_range(in_channels: int, grey: bool, tmp_path: Path) -> None:
    net = CifarResNet(depth=8, in_channels=in_channels)
    grid = filter_grid(net)
    tile = TILE // 3 * 3
    assert grid.shape == (3, 2 * (tile + 2) + 2, 8 * (tile + 2) + 2)  # 16 filters in 2 rows
    for row, column in itertools.product(range(2), range(8)):
        top, left = 2 + row * (tile + 2), 2 + column * (tile + 2)
        shown = grid[:, top : top + tile, left : left + tile]
        assert (float(shown.min()), float(shown.max())) == pytest.approx((0, 1), abs=1e-4)
    assert torch.equal(grid[0], grid[1]) == grey
    write_filters(net, tmp_path / "filters.png")
    with Image.open(tmp_path / "filters.png") as image:
        assert image.size == (grid.shape[2], grid.shape[1])
