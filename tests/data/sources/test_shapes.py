import json
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from convatlas.data.sources.shapes import CLASSES, IGNORE_INDEX, MAX_SHAPES, MIN_VISIBLE, boxes_around, scene
from convatlas.data.sources.shapes_on_disk import COCO_CATEGORY_IDS, run_lengths, write_coco, write_voc


def test_a_scene_is_a_function_of_seed_index_and_size() -> None:
    one, same = scene(3, 5), scene(3, 5)
    np.testing.assert_array_equal(one.image, same.image)
    np.testing.assert_array_equal(one.masks, same.masks)
    others = (scene(4, 5), scene(3, 6))
    assert all((one.image != other.image).any() for other in others)
    assert scene(3, 5, (48, 80)).image.shape == (48, 80, 3)


def test_boxes_labels_and_masks_belong_together() -> None:
    for index in range(40):
        shown = scene(0, index)
        assert 1 <= len(shown.labels) <= MAX_SHAPES
        assert shown.masks.shape == (len(shown.labels), 128, 128)
        assert shown.masks.sum(axis=0).max() == 1
        np.testing.assert_array_equal(shown.boxes, boxes_around(shown.masks))
        assert (shown.boxes[:, 2:] > shown.boxes[:, :2]).all()


def test_shapes_hide_one_another_but_no_more_than_half() -> None:
    scenes = [scene(0, index) for index in range(100)]
    several = [shown.boxes for shown in scenes if len(shown.labels) > 1]
    overlapping = 0
    for boxes in several:
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        overlapping += int(np.triu((high > low).all(axis=2), 1).any())
    assert overlapping > len(several) / 3
    areas = np.concatenate([shown.masks.sum(axis=(1, 2)) for shown in scenes])
    smallest_star = 128**2 * 0.13**2 * 5 * 0.42 * np.sin(np.pi / 5)
    assert MIN_VISIBLE * smallest_star <= areas.min() < smallest_star


def test_every_class_occurs_about_as_often_and_colour_does_not_tell_which() -> None:
    scenes = [scene(1, index) for index in range(300)]
    labels = np.concatenate([shown.labels for shown in scenes])
    counts = np.bincount(labels, minlength=len(CLASSES))
    assert counts.min() > 0.7 * counts.mean()
    colours = np.concatenate([[shown.image[mask].mean(axis=0) for mask in shown.masks] for shown in scenes])
    means = np.stack([colours[labels == label].mean(axis=0) for label in range(len(CLASSES))])
    assert np.abs(means - colours.mean(axis=0)).max() < 3.5 * colours.std() / np.sqrt(counts.min())


def test_semantic_and_instance_masks_have_void_outlines_if_asked_for() -> None:
    shown = scene(0, 3)
    plain, marked = shown.semantic(void_boundaries=False), shown.semantic()
    assert set(np.unique(plain)) == {0, *(shown.labels + 1)}
    np.testing.assert_array_equal(plain[marked != IGNORE_INDEX], marked[marked != IGNORE_INDEX])
    assert 0 < (marked == IGNORE_INDEX).mean() < 0.2
    instances = shown.instances(void_boundaries=False)
    for number, mask in enumerate(shown.masks, 1):
        np.testing.assert_array_equal(instances == number, mask)


def test_coco_files_have_the_scenes_boxes_and_masks(tmp_path: Path) -> None:
    root = write_coco(tmp_path, {"train2017": 3, "val2017": 2}, seed=7, size=(64, 96))
    content = json.loads((root / "annotations" / "instances_val2017.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in content["images"]] == [3, 4]
    assert [category["id"] for category in content["categories"]] == list(COCO_CATEGORY_IDS)
    assert len(list((root / "train2017").glob("*.jpg"))) == 3
    shown = scene(7, 4, (64, 96))
    mine = [item for item in content["annotations"] if item["image_id"] == 4]
    assert [COCO_CATEGORY_IDS.index(item["category_id"]) for item in mine] == shown.labels.tolist()
    for item, box, mask in zip(mine, shown.boxes, shown.masks, strict=True):
        x, y, width, height = item["bbox"]
        assert [x, y, x + width, y + height] == box.tolist()
        counts = item["segmentation"]["counts"]
        values = np.repeat(np.arange(len(counts)) % 2, counts).astype(bool)
        np.testing.assert_array_equal(values.reshape(item["segmentation"]["size"], order="F"), mask)
        assert item["area"] == mask.sum()
    stored = np.asarray(Image.open(root / "val2017" / content["images"][1]["file_name"]))
    assert np.abs(stored.astype(int) - shown.image).mean() < 6


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths_start_with_zeros_even_if_there_are_none(first: bool) -> None:
    mask = np.full((2, 3), first)
    assert run_lengths(mask) == ([0, 6] if first else [6])


def test_torchvision_reads_the_voc_files(tmp_path: Path) -> None:
    top = write_voc(tmp_path, {"train": 3, "val": 2}, seed=7)
    image, mask = torchvision.datasets.VOCSegmentation(str(tmp_path), image_set="val")[1]
    shown = scene(7, 4)
    assert np.abs(np.asarray(image).astype(int) - shown.image).mean() < 6
    np.testing.assert_array_equal(np.asarray(mask), shown.semantic())
    objects = Image.open(top / "SegmentationObject" / "2012_000004.png")
    np.testing.assert_array_equal(np.asarray(objects), shown.instances())
    assert objects.getpalette()[:6] == [0, 0, 0, 128, 0, 0]  # type: ignore[index]  # VOC's black and red
    _, target = torchvision.datasets.VOCDetection(str(tmp_path), image_set="val")[1]
    found = target["annotation"]["object"]
    assert [item["name"] for item in found] == [CLASSES[label] for label in shown.labels]
    corners = [[int(item["bndbox"][key]) for key in ("xmin", "ymin", "xmax", "ymax")] for item in found]
    np.testing.assert_array_equal(np.array(corners) - [1, 1, 0, 0], shown.boxes)
