"""Boxes that cannot be what they are taken for: points, shares of the image, other corners."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from convatlas.data.detection.boxes import COCO_BOX, VOC_BOX, check_boxes
from convatlas.data.detection.datasets import coco, voc
from convatlas.data.sources.shapes_on_disk import write_coco, write_voc
from convatlas.errors import UserError
from tests.data.detection.test_objects_on_disk import edit, edit_xml

SIZE = (48, 64)
Box = list[float]


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    return write_coco(tmp_path, {"train2017": 8, "val2017": 2}, size=SIZE)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    return write_voc(tmp_path, {"train": 8, "val": 2}, size=SIZE)


def change_coco(root: Path, change: Callable[[Box], Box]) -> None:
    edit(root, lambda content: [item.update(bbox=change(item["bbox"])) for item in content["annotations"]])


def change_voc(root: Path, change: Callable[[Box], Box]) -> None:
    for path in (root / "Annotations").glob("*.xml"):
        tree = ElementTree.parse(path)  # noqa: S314
        for box in tree.getroot().iter("bndbox"):
            for corner, value in zip(box, change([float(corner.text or "") for corner in box]), strict=True):
                corner.text = str(value)
        tree.write(path)


@pytest.mark.parametrize(
    "corners", [(10, 20, 10, 20), (10, 20, 10, 30), (10, 20, 30, 20), (10, 20, 9, 30), (0, 0, 0, 0)]
)
def test_points_and_lines_of_voc_are_left_out_and_counted(
    corners: tuple[int, ...], voc_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = voc(3, root=str(voc_root), masks=False).train.objects(0)
    for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        edit_xml(voc_root, f"object/bndbox/{tag}", str(value))
    data = voc(3, root=str(voc_root), masks=False)
    after = data.train.objects(0)
    np.testing.assert_array_equal(after.boxes, before.boxes[1:])
    np.testing.assert_array_equal(after.labels, before.labels[1:])
    assert "1 of 24 objects have no area inside their image and are left out; the first is in 2012_000000.xml" in (
        capsys.readouterr().err
    )


def test_a_box_of_two_pixels_of_voc_is_kept(voc_root: Path) -> None:
    for tag, value in (("xmin", 10), ("ymin", 20), ("xmax", 11), ("ymax", 21)):
        edit_xml(voc_root, f"object/bndbox/{tag}", str(value))
    assert voc(3, root=str(voc_root), masks=False).train.objects(0).boxes[0].tolist() == [9, 19, 11, 21]


def shares(box: Box) -> Box:
    return [value / side for value, side in zip(box, (64, 48, 64, 48), strict=True)]


def test_shares_of_the_image_are_refused(coco_root: Path, voc_root: Path) -> None:
    change_coco(coco_root, shares)
    expected = (
        r"instances_train2017\.json: (\d+) of \1 boxes look like shares of the image, from 0 to 1; expected x, y, "
    )
    with pytest.raises(UserError, match=expected + "width and height in pixels"):
        coco(3, root=str(coco_root), masks=False)
    change_voc(voc_root, shares)
    expected = r"/Annotations: (\d+) of \1 boxes look like shares of the image, from 0 to 1; expected xmin, ymin, xmax"
    with pytest.raises(UserError, match=expected):
        voc(3, root=str(voc_root), masks=False)


def test_corners_in_coco_and_widths_in_voc_are_refused(coco_root: Path, voc_root: Path) -> None:
    change_coco(coco_root, lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]])
    expected = (
        r"instances_train2017\.json: \d+ of \d+ boxes do not fit their image and look like corners \(x0, y0, x1, y1\)"
    )
    with pytest.raises(UserError, match=expected):
        coco(3, root=str(coco_root), masks=False)
    change_voc(voc_root, lambda box: [box[0], box[1], box[2] - box[0], box[3] - box[1]])
    expected = (
        r"/Annotations: \d+ of \d+ boxes do not fit their image and look like x, y, width and height; expected xmin,"
    )
    with pytest.raises(UserError, match=expected):
        voc(3, root=str(voc_root), masks=False)


def larger(box: Box) -> Box:
    return [3 * value + 20 for value in box]


def smaller(box: Box) -> Box:
    return [box[0], box[1], 0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            larger,
            "boxes end beyond their image; expected x, y, width and height in pixels, in images of the size given",
        ),
        (smaller, "boxes are under a pixel wide or high; expected x, y, width and height in pixels"),
    ],
)
def test_boxes_that_are_hardly_possible_are_warned_about(
    change: Callable[[Box], Box], message: str, coco_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco(3, root=str(coco_root), masks=False)
    assert capsys.readouterr().err == ""
    change_coco(coco_root, change)
    coco(3, root=str(coco_root), masks=False)
    line, *_ = capsys.readouterr().err.splitlines()
    assert line.startswith(f"convatlas: warning: {coco_root}/annotations/instances_train2017.json: ")
    assert message in line


def boxes(*rows: Box) -> Any:
    return np.array(rows, np.float64).reshape(-1, 4)


@pytest.mark.parametrize(
    "numbers",
    [
        boxes(),
        boxes(
            [5, 5, 50, 40], [1, 1, 60, 44], [2, 3, 62, 45], [0, 0, 64, 48]
        ),  # large and at the upper left, but inside
        boxes([-10, 40, 100, 30], [5, 5, 20, 20], [10, 10, 20, 20]),
        boxes([0, 0, 0, 0], [0, 0, 0, 0], [20, 20, 10, 10]),
        boxes([np.nan, 1, 5, 5], [30, 20, 10, 10]),
    ],
)
def test_sound_boxes_with_single_faults_are_taken(numbers: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ends = numbers.copy()
    ends[:, 2:] += ends[:, :2]
    sizes = np.tile(np.array(SIZE), (len(numbers), 1))
    check_boxes(numbers, ends, numbers, sizes, "here", COCO_BOX)
    check_boxes(ends, ends, ends + np.pad(ends[:, :2], ((0, 0), (2, 0))), sizes, "here", VOC_BOX)
    assert capsys.readouterr().err == ""


def test_few_boxes_that_look_like_corners_are_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = boxes([10, 10, 60, 40], [2, 3, 30, 30])
    ends = boxes([10, 10, 70, 50], [2, 3, 32, 33])
    check_boxes(numbers, ends, numbers, np.tile(np.array(SIZE), (2, 1)), "here", COCO_BOX)
    assert capsys.readouterr().err == (
        "convatlas: warning: here: 1 of 2 boxes do not fit their image and look like corners (x0, y0, x1, y1); "
        "expected x, y, width and height in pixels\n"
    )
