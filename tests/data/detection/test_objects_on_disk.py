"""COCO's and VOC's files, as they should be and as they should not."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from convatlas.data.detection.datasets import coco, shapes, voc
from convatlas.data.detection.objects import decode_masks, encode_masks
from convatlas.data.digests import FileDigests
from convatlas.data.images.decode import ImageError
from convatlas.data.sources.shapes import CLASSES, IGNORE_INDEX, scene
from convatlas.data.sources.shapes_on_disk import COCO_CATEGORY_IDS, write_coco, write_voc
from convatlas.errors import UserError

SPLITS = {"train2017": 4, "val2017": 2}
SIZE = (48, 64)


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    return write_coco(tmp_path, SPLITS, size=SIZE)


@pytest.fixture
def voc_root(tmp_path: Path) -> Path:
    return write_voc(tmp_path, {"train": 4, "val": 2}, size=SIZE)


def edit(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the annotations of COCO's training split."""
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_xml(root: Path, path: str, text: str | None) -> None:
    """Change a text of the first VOC annotation; None removes the element."""
    file = root / "Annotations" / "2012_000000.xml"
    tree = ElementTree.parse(file)  # noqa: S314
    parent, _, tag = path.rpartition("/")
    above = tree.getroot() if not parent else tree.find(parent)
    assert above is not None
    element = above.find(tag)
    assert element is not None
    if text is None:
        above.remove(element)
    else:
        element.text = text
    tree.write(file)


def test_coco_s_boxes_classes_and_masks_are_the_scenes(coco_root: Path) -> None:
    data = coco(3, root=str(coco_root), masks=True)
    assert data.class_list.names == CLASSES
    assert data.val is None
    for index in range(2):
        expected = scene(0, 4 + index, SIZE)
        found = data.test.objects(index)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.labels, expected.labels)
        assert found.masks is not None
        np.testing.assert_array_equal(decode_masks(found.masks, SIZE).numpy(), expected.masks)
        np.testing.assert_array_equal(found.areas, expected.masks.sum(axis=(1, 2)))
        picture = data.test.open(index)
        assert (picture.height, picture.width) == SIZE == tuple(data.test.sizes[index])


def test_polygons_and_both_kinds_of_run_lengths_are_pycocotools_masks(coco_root: Path) -> None:
    compressed = encode_masks(np.tril(np.ones(SIZE, np.uint8))[None])[0]
    forms: list[Any] = [
        [[3.2, 4.5, 40.7, 5.0, 20.1, 44.4], [50, 2, 60, 2, 60.5, 12.25, 50, 12]],
        {"size": list(SIZE), "counts": compressed["counts"].decode()},
        {"size": list(SIZE), "counts": [100, 200, 48 * 64 - 300]},
    ]

    def change(content: dict[str, Any]) -> None:
        content["annotations"] = [
            {**content["annotations"][0], "id": number, "segmentation": form, "image_id": 0}
            for number, form in enumerate(forms, 1)
        ]

    edit(coco_root, change)
    theirs = COCO(str(coco_root / "annotations" / "instances_train2017.json"))
    found = coco(3, root=str(coco_root), masks=True).train.objects(0)
    masks = decode_masks(found.masks or [], SIZE)
    for mask, annotation in zip(masks, theirs.loadAnns([1, 2, 3]), strict=True):
        np.testing.assert_array_equal(mask.numpy(), theirs.annToMask(annotation))


def test_voc_s_boxes_and_classes_are_the_scenes(voc_root: Path) -> None:
    data = voc(3, root=str(voc_root), masks=True)
    assert data.class_list.names == tuple(sorted(CLASSES))
    expected, found = scene(0, 5, SIZE), data.test.objects(1)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert [data.class_list.names[label] for label in found.labels] == [CLASSES[label] for label in expected.labels]
    masks = decode_masks(found.masks or [], SIZE).numpy().astype(bool)
    certain = expected.instances() != IGNORE_INDEX
    np.testing.assert_array_equal(masks & certain, expected.masks & certain)
    assert not (masks & ~certain).any()


def test_voc_is_found_where_torchvision_puts_it(voc_root: Path, tmp_path: Path) -> None:
    one, other = (voc(3, root=str(root), masks=False) for root in (voc_root, tmp_path))
    files = FileDigests()
    assert one.train.digests(files) == other.train.digests(files)
    assert one.train.path(0) == other.train.path(0)


def test_a_listed_order_of_classes_counts(voc_root: Path) -> None:
    (voc_root / "classes.txt").write_text("\n".join(("heart", *reversed(CLASSES))), encoding="utf-8")
    data = voc(3, root=str(voc_root), masks=False)
    assert data.class_list.names == ("heart", *reversed(CLASSES))


@pytest.mark.parametrize(("difficult", "crowd"), [("1", 1), ("True", True)])
def test_difficult_objects_and_crowds_are_marked(
    difficult: str, crowd: int | bool, voc_root: Path, coco_root: Path
) -> None:
    edit_xml(voc_root, "object/difficult", difficult)
    edit(coco_root, lambda content: content["annotations"][0].update(iscrowd=crowd))
    for data in (voc(3, root=str(voc_root), masks=False), coco(3, root=str(coco_root), masks=False)):
        marked = data.train.objects(0).crowd
        assert marked[0]
        assert not marked[1:].any()


def test_images_without_objects_are_kept(coco_root: Path) -> None:
    edit(coco_root, lambda content: content.update(annotations=[]))
    data = coco(3, root=str(coco_root), masks=True)
    found = data.train.objects(2)
    assert found.boxes.shape == (0, 4)
    assert decode_masks(found.masks or [], SIZE).shape == (0, *SIZE)


@pytest.mark.parametrize("bbox", [[5, 5, 0, 9], [5, 5, -3, 9], [70, 5, 9, 9], [5, float("nan"), 9, 9]])
def test_boxes_without_an_area_in_the_image_are_left_out_and_counted(
    bbox: list[float], coco_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(coco(3, root=str(coco_root), masks=True).train.objects(0).labels)
    edit(coco_root, lambda content: content["annotations"][0].update(bbox=bbox))
    after = coco(3, root=str(coco_root), masks=True).train.objects(0)
    assert len(after.labels) == len(after.masks or []) == before - 1
    assert "objects have no area inside their image and are left out; the first is annotation 1" in (
        capsys.readouterr().err
    )


def test_boxes_across_the_border_are_cut_off_there(coco_root: Path, voc_root: Path) -> None:
    edit(coco_root, lambda content: content["annotations"][0].update(bbox=[-10, 40, 100, 30]))
    assert coco(3, root=str(coco_root), masks=False).train.objects(0).boxes[0].tolist() == [0, 40, 64, 48]
    edit_xml(voc_root, "object/bndbox/xmin", "-5")
    assert voc(3, root=str(voc_root), masks=False).train.objects(0).boxes[0, 0] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["annotations"][0].update(category_id=99),
            r"annotation 1: category_id 99 is none of \[1, 3, 4, 7\]",
        ),
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 1: image_id 99 is none of the images"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), r"annotation 1: bbox \[1, 2\]: expected x, y, width"),
        (
            lambda c: c["annotations"][0]["segmentation"].update(size=[64, 48]),
            r"annotation 1: its mask has size \[64, 48\], its image \[48, 64\]",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]),
            "annotation 1: segmentation: expected poly",
        ),
        (lambda c: c["annotations"][0].pop("segmentation"), "annotation 1: segmentation: expected polygons"),
        (
            lambda c: c["annotations"][0]["segmentation"].update(counts=[5, 5]),
            "annotation 1: segmentation: expected polygons of three points or more, or run lengths of the image's size",
        ),
        (lambda c: c.pop("categories"), "'categories' is wrong or missing"),
        (lambda c: c["images"][0].pop("height"), "'height' is wrong or missing"),
        (lambda c: c.update(images=[]), "lists no image"),
        (lambda c: c["categories"][0].update(name="\ud800"), "expected names that UTF-8 can write, found half a"),
        (lambda c: c["images"][0].update(file_name="\udfff.jpg"), "expected names that UTF-8 can write, found half a"),
        (
            lambda c: c["categories"][0].update(name="\x1b[2J"),
            r"class '\\x1b\[2J': expected a name without line breaks",
        ),
        (lambda c: c["categories"][0].update(name=c["categories"][1]["name"]), "each with a name of its own"),
        (lambda c: c["categories"].pop(), "category_id 7 is none of|the classes differ"),
        (
            lambda c: c["images"][1].update(id=0),
            r"image id 0: '000000000000\.jpg' and '000000000001\.jpg' have it; expected an id of its own for each",
        ),
        (lambda c: c["images"][1].update(id="0"), r"image id 0: '000000000000\.jpg' and '000000000001\.jpg' have it"),
        (lambda c: c["categories"].append({"id": 3, "name": "heart"}), "category id 3: 'square' and 'heart' have it"),
        (
            lambda c: c["categories"][0].update(id="circle"),
            r"category ids \['circle', 3, 4, 7\]: expected only numbers,",
        ),
        (lambda c: c["images"][1].update(id=True), "image id: True is no id; expected a whole number or a text"),
        (lambda c: c["categories"][0].update(id=None), "category id: None is no id"),
        (lambda c: c["annotations"][1].update(id=1), "annotation 1: entries 0 and 1 of annotations have this id"),
        (lambda c: c["annotations"][1].update(image_id=[0]), r"annotation 2: image_id: \[0\] is no id"),
        (lambda c: c["annotations"][1].update(category_id=1.5), r"annotation 2: category_id: 1\.5 is no id"),
        (lambda c: c["annotations"][1].update(iscrowd="0"), "annotation 2: iscrowd '0': expected 0, 1, true or false"),
        (lambda c: c["annotations"][1].update(iscrowd=2), "annotation 2: iscrowd 2: expected 0, 1, true or false"),
    ],
)
def test_what_is_wrong_in_coco_s_file_is_named(change: Any, message: str, coco_root: Path) -> None:
    edit(coco_root, change)
    with pytest.raises(UserError, match=message):
        coco(3, root=str(coco_root), masks=True)


def as_texts(content: dict[str, Any]) -> None:
    """Write all ids as texts, those of the images as words."""
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for category in content["categories"]:
        category["id"] = str(category["id"])
    for item in content["annotations"]:
        item.update(image_id=f"image {item['image_id']}", category_id=str(item["category_id"]), id=f"a{item['id']}")


def as_floats(content: dict[str, Any]) -> None:
    """Write ids as numbers with a point, as tables export them, on one side alone."""
    for item in content["annotations"]:
        item.update(image_id=float(item["image_id"]), category_id=float(item["category_id"]), iscrowd=False)


@pytest.mark.parametrize("change", [as_texts, as_floats])
def test_ids_may_be_texts_or_numbers(change: Any, coco_root: Path) -> None:
    before = coco(3, root=str(coco_root), masks=True)
    edit(coco_root, change)
    after = coco(3, root=str(coco_root), masks=True)
    assert after.class_list == before.class_list
    for index in range(4):
        one, other = before.train.objects(index), after.train.objects(index)
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert not other.crowd.any()


def test_splits_with_other_categories_are_refused(coco_root: Path) -> None:
    edit(coco_root, lambda content: content["categories"][0].update(name="disc"))
    with pytest.raises(UserError, match=r"the classes differ: the training split has 4 \(disc, .*val2017\.json has 4"):
        coco(3, root=str(coco_root), masks=False)


@pytest.mark.parametrize("content", [None, "", "[1, 2]", '{"images": 3}'])
def test_a_missing_or_malformed_coco_file_is_named(content: str | None, coco_root: Path) -> None:
    path = coco_root / "annotations" / "instances_val2017.json"
    path.unlink()
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"instances_val2017\.json: (cannot be read|expected)"):
        coco(3, root=str(coco_root), masks=False)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"data\.root=.*nowhere: no such folder; expected annotations/instances_train20"
    ):
        coco(3, root=str(tmp_path / "nowhere"), masks=False)
    with pytest.raises(UserError, match=r"data\.root=.*nowhere: expected VOCdevkit/VOC2012 there"):
        voc(3, root=str(tmp_path / "nowhere"), masks=False)


def test_an_image_of_another_size_than_its_annotations_is_an_error_of_that_image(
    coco_root: Path, voc_root: Path
) -> None:
    for data in (coco(3, root=str(coco_root), masks=False), voc(3, root=str(voc_root), masks=False)):
        Image.new("RGB", (20, 30)).save(data.train.path(1))
        with pytest.raises(ImageError, match="has 20 × 30 pixels, and 64 × 48 in"):
            data.train.open(1)
        Path(data.train.path(2)).unlink()
        with pytest.raises(ImageError, match="cannot be read"):
            data.train.open(2)


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("object/name", "heart", r"2012_000000\.xml: class 'heart': expected one of"),
        ("object/bndbox/xmin", "left", r"2012_000000\.xml: expected VOC's annotation as XML \(could not convert"),
        ("object/bndbox", None, r"2012_000000\.xml: expected VOC's annotation as XML \(no <bndbox><xmin>\)"),
        ("object/difficult", "Unspecified", r"2012_000000\.xml: .*<difficult> 'unspecified': expected 0 or 1"),
        ("object/difficult", "2", r"2012_000000\.xml: .*<difficult> '2': expected 0 or 1"),
        ("size/width", None, r"2012_000000\.xml: expected VOC's annotation as XML \(no <size><width>\)"),
    ],
)
def test_what_is_wrong_in_voc_s_file_is_named(path: str, text: str | None, message: str, voc_root: Path) -> None:
    (voc_root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    edit_xml(voc_root, path, text)
    with pytest.raises(UserError, match=message):
        voc(3, root=str(voc_root), masks=False)


def test_missing_files_of_voc_are_named(voc_root: Path) -> None:
    (voc_root / "Annotations" / "2012_000001.xml").unlink()
    with pytest.raises(UserError, match=r"2012_000001\.xml: cannot be read \(No such file"):
        voc(3, root=str(voc_root), masks=False)
    (voc_root / "ImageSets" / "Main" / "train.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.txt: names no image"):
        voc(3, root=str(voc_root), masks=False)
    (voc_root / "ImageSets" / "Main" / "train.txt").unlink()
    with pytest.raises(UserError, match=r"train\.txt: cannot be read"):
        voc(3, root=str(voc_root), masks=False)


def test_masks_of_voc_that_do_not_fit_are_named(voc_root: Path) -> None:
    data = voc(3, root=str(voc_root), masks=True)
    mask = voc_root / "SegmentationObject" / "2012_000000.png"
    Image.new("P", (20, 30)).save(mask)
    with pytest.raises(UserError, match=r"2012_000000\.png: a mask of 20 × 30 pixels, its image has 64 × 48"):
        data.train.objects(0)
    Image.new("P", SIZE[::-1]).save(mask)
    with pytest.raises(UserError, match=r"2012_000000\.png: expected a pixel of each object, none is 1"):
        data.train.objects(0)
    mask.unlink()
    with pytest.raises(UserError, match=r"2012_000000\.png: cannot be read .*data\.dataset\.masks=true needs"):
        data.train.objects(0)


def test_a_class_without_training_object_is_refused_where_no_file_lists_it(voc_root: Path) -> None:
    for name in ("2012_000000", "2012_000001", "2012_000002", "2012_000003"):
        path = voc_root / "Annotations" / f"{name}.xml"
        tree = ElementTree.parse(path)  # noqa: S314
        for item in tree.getroot().findall("object"):
            tree.getroot().remove(item)
        tree.write(path)
    with pytest.raises(UserError, match=r"no object in the training images, and no .*classes\.txt that names"):
        voc(3, root=str(voc_root), masks=False)


def test_another_box_is_another_data_set(coco_root: Path, voc_root: Path) -> None:
    files = FileDigests()

    def digests() -> list[dict[str, str]]:
        data = [coco(3, root=str(coco_root), masks=False), voc(3, root=str(voc_root), masks=False)]
        return [one.train.digests(files) for one in data]

    before = digests()
    edit(coco_root, lambda content: content["annotations"][0]["bbox"].__setitem__(0, 1.5))
    edit_xml(voc_root, "object/bndbox/xmin", "2")
    assert all(one != other for one, other in zip(before, digests(), strict=True))
    one, other = (shapes(3, train=4, test=2, size=SIZE, masks=True, scenes_seed=seed) for seed in (0, 1))
    assert one.train.digests(files) != other.train.digests(files) != other.test.digests(files)


def test_scenes_in_memory_are_those_on_disk(coco_root: Path) -> None:
    made, stored = shapes(3, train=4, test=2, size=SIZE, masks=True), coco(3, root=str(coco_root), masks=True)
    np.testing.assert_array_equal(made.test.objects(1).boxes, stored.test.objects(1).boxes)
    difference = made.test.open(1).pixels().float() - stored.test.open(1).pixels().float()
    assert difference.abs().mean() < 8  # JPEG
    assert torch.equal(made.test.open(1).pixels(), made.test.open(1).pixels())
    with pytest.raises(UserError, match=r"data\.in_channels=1: the shapes are in colour"):
        shapes(1, train=4, test=2, size=SIZE, masks=True)


def test_only_the_first_rank_warns(coco_root: Path) -> None:
    edit(coco_root, lambda content: content["annotations"][0].update(bbox=[5, 5, 0, 9]))
    script = f"from convatlas.data.detection.datasets import coco; coco(3, root={str(coco_root)!r}, masks=False)"
    for rank, expected in (("0", 1), ("1", 0)):
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
        environment = {**os.environ, **meeting, "RANK": rank, "WORLD_SIZE": "2"}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.stderr.count("no area inside their image") == expected


def test_categories_are_in_the_order_of_their_ids(coco_root: Path) -> None:
    edit(coco_root, lambda content: content["categories"].reverse())
    assert coco(3, root=str(coco_root), masks=False).class_list.names == CLASSES
    assert sorted(COCO_CATEGORY_IDS) == list(COCO_CATEGORY_IDS)
