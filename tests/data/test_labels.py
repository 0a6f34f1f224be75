"""What the counts of labels say about mistakes in the data, for all problem types."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convatlas.config.composition import compose
from convatlas.data.class_list import ClassList
from convatlas.data.classification.module import ClassificationDataModule
from convatlas.data.dataset import Dataset
from convatlas.data.detection.datasets import coco, voc
from convatlas.data.detection.module import DetectionDataModule
from convatlas.data.images.decode import ImageError
from convatlas.data.module import ImageDataModule
from convatlas.data.segmentation import counts as mask_counts
from convatlas.data.segmentation import sources as masks
from convatlas.data.segmentation.datasets import mask_folders
from convatlas.data.segmentation.module import SegmentationDataModule
from convatlas.data.segmentation.sources import read_mask
from convatlas.data.sources.images import ArraySource
from convatlas.data.sources.scan import write_entry
from convatlas.data.sources.shapes_on_disk import write_coco, write_voc
from convatlas.errors import UserError
from pipelines.check import check
from tests.data.detection.test_objects_on_disk import edit

SETTINGS: Mapping[str, Any] = {
    "name": "mine",
    "num_classes": None,
    "in_channels": 3,
    "image_size": 32,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "val_fraction": 0.25,
    "global_batch_size": 2,
    "threads": 2,
    "prefetch": 0,
    "seed": 0,
}


def masks_of(
    root: Path, columns_of: Mapping[str, list[list[int]]], classes: tuple[str, ...] = ("paper", "ink")
) -> Path:
    """Write images with masks of 32 pixels a side that consist of the given values, in equal columns."""
    for split, values in columns_of.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for number, columns in enumerate(values):
            mask = np.repeat(np.array(columns, np.uint8), 32 // len(columns))[None].repeat(32, axis=0)
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
            Image.new("RGB", mask.shape[::-1]).save(root / "images" / split / f"{number}.jpg")
    (root / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return root


def segmentation(root: Path, values: list[int] | None = None, **settings: Any) -> SegmentationDataModule:
    dataset = partial(mask_folders, values=values)
    return SegmentationDataModule(dataset=dataset, root=str(root), **{**SETTINGS, **settings})


def detection(dataset: Callable[..., Any], root: Path) -> DetectionDataModule:
    return DetectionDataModule(dataset=dataset, root=str(root), long_side=64, **SETTINGS)


def classification(train: list[int], test: list[int]) -> ClassificationDataModule:
    def dataset(in_channels: int) -> Dataset[ArraySource]:
        images = [ArraySource(np.zeros((len(labels), 8, 8, 3), np.uint8), labels, "a") for labels in (train, test)]
        return Dataset(ClassList(("ant", "bee", "cat")), train=images[0], test=images[1])

    return ClassificationDataModule(dataset=dataset, resize=None, **SETTINGS)


def test_masks_of_0_and_255_for_two_classes_are_refused_before_training(tmp_path: Path) -> None:
    root = masks_of(tmp_path, {"train": [[0, 0, 0, 255]] * 4, "val": [[0, 0, 0, 255]] * 2})
    overrides = ["data=mask_folders", f"data.root={root}", "model=unet_same", "data.image_size=32"]
    expected = (
        r"^data=mask_folders: train: only paper occurs in the masks, and 25\.0 % of the pixels are void; the first "
        r"masks hold 0, 255; expected .* in data\.dataset\.values \(of data=mask_folders\)$"
    )
    with pytest.raises(UserError, match=expected):
        check(compose("check", [*overrides, "data.global_batch_size=2", f"run.root={tmp_path / 'runs'}"]))
    data = segmentation(root, values=[0, 255])
    assert data.check_labels() == []
    assert np.unique(data.mask("train", 0)).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("columns", "values", "message"),
    [
        (
            [[255]],
            None,
            r"no class occurs in the masks, and 100\.0 % of the pixels are void; the first masks hold 255;",
        ),
        ([[0]], None, r"only paper occurs in the masks, and 0\.0 % .* hold 0;"),
        ([[0, 1]], [0, 255], r"only paper occurs in the masks, and 50\.0 % .* hold 0, 1;"),
        ([[10, 20]], [1, 2], r"no class occurs in the masks, and 100\.0 % .* hold 10, 20;"),
    ],
)
def test_training_masks_with_at_most_one_class_are_refused(
    columns: list[list[int]], values: list[int] | None, message: str, tmp_path: Path
) -> None:
    data = segmentation(masks_of(tmp_path, {"train": columns * 4, "val": columns}), values)
    with pytest.raises(UserError, match=message):
        data.check_labels()


def test_each_split_is_told_what_its_masks_lack(tmp_path: Path) -> None:
    classes = ("paper", "ink", "stain")
    root = masks_of(tmp_path, {"train": [[0, 1, 255, 255, 255, 255, 255, 255]] * 4, "val": [[0, 255]] * 2}, classes)
    void, void_of_val, coded, absent = segmentation(root).check_labels()
    assert void_of_val.startswith("data=mine: val: 75.0 % of the pixels are void")
    assert void.startswith("data=mine: train: 75.0 % of the pixels are void and do not count; data.dataset.values ")
    assert coded.startswith("data=mine: test: only paper occurs in the masks, and 50.0 % of the pixels are void;")
    assert absent.startswith("data=mine: train, val: no pixel of 1 of 3 classes: stain; data.dataset.values ")
    assert segmentation(root).check_labels(["test"]) == [coded]


def test_a_list_of_one_class_needs_no_second(tmp_path: Path) -> None:
    root = masks_of(tmp_path, {"train": [[0, 255, 0, 0]] * 4, "val": [[0]]}, ("ink",))
    assert segmentation(root).check_labels() == []


def test_masks_are_counted_once_until_one_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_counts, "SETTLED_SECONDS", -60)  # files of this second count as old
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = masks_of(tmp_path, {"train": [[0, 1]] * 4, "val": [[0, 1]]})
    read: list[Path] = []

    def reading(path: Path) -> Any:
        read.append(path)
        return read_mask(path)

    def counted() -> list[str]:
        read.clear()
        return segmentation(root).check_labels()

    monkeypatch.setattr(masks, "read_mask", reading)

    assert counted() == []
    assert len(read) == 5
    assert counted() == []
    assert read == []
    for damage in (b"[" * 100_000, b"{}", json.dumps([-1] * 256).encode(), json.dumps([2**70] * 256).encode()):
        for entry in (tmp_path / "cache" / "convatlas" / "mask_counts").iterdir():
            write_entry(entry, damage)
        assert counted() == []
        assert len(read) == 5
    Image.new("L", (32, 32), 0).save(root / "masks" / "val" / "0.png")
    (warning,) = counted()
    assert warning.startswith("data=mine: test: only paper occurs")
    assert [path.parts[-2:] for path in read[:1]] == [("val", "0.png")]
    assert len(read) == 2  # and once more for the message


def test_a_damaged_mask_ends_the_count_or_is_left_out(tmp_path: Path) -> None:
    root = masks_of(tmp_path, {"train": [[0, 1]] * 4, "val": [[0, 1], [1, 0]]})
    (root / "masks" / "val" / "1.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageError, match=r"val/1\.png: expected a mask in one of PNG"):
        segmentation(root).check_labels()
    assert segmentation(root, on_error="skip").check_labels() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(annotations=[]),
        lambda content: [item.update(iscrowd=True) for item in content["annotations"]],
        lambda content: [item["bbox"].__setitem__(2, 0) for item in content["annotations"]],
    ],
)
def test_coco_without_an_object_to_train_on_is_refused(change: Any, tmp_path: Path) -> None:
    root = write_coco(tmp_path, {"train2017": 4, "val2017": 2}, size=(48, 64))
    data = partial(coco, masks=False)
    detection(data, root).check_labels()
    edit(root, change)
    with pytest.raises(
        UserError, match=r"instances_train2017\.json: no object to train on in 3 training images; expec"
    ):
        detection(data, root).check_labels()


def test_voc_without_an_object_to_train_on_is_refused(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"train": 4, "val": 2}, size=(48, 64))
    for path in (root / "Annotations").glob("*.xml"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("<difficult>0", "<difficult>1"), encoding="utf-8")
    with pytest.raises(UserError, match=r"/Annotations: no object to train on in 3 training images"):
        detection(partial(voc, masks=False), root).check_labels()


def test_classes_without_an_object_are_named_by_split(tmp_path: Path) -> None:
    root = write_coco(tmp_path, {"train2017": 8, "val2017": 2}, size=(48, 64))
    edit(root, lambda content: [item.update(category_id=3) for item in content["annotations"]])
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, "annotations": []}), encoding="utf-8")
    assert detection(partial(coco, masks=False), root).check_labels() == [
        "data=mine: train, val: no object of 3 of 4 classes: circle, triangle, star",
        "data=mine: test: no object of any class, so that there are no metrics",
    ]


def test_classes_with_images_in_one_split_alone_are_named() -> None:
    data: ImageDataModule = classification(train=[0, 0, 0, 0, 1, 1, 1, 1], test=[0, 2])
    assert data.check_labels() == [
        "data=mine: train, val: no image of 1 of 3 classes: cat",
        "data=mine: test: no image of 1 of 3 classes: bee",
    ]
    assert classification(train=[0, 0, 1, 1, 2, 2], test=[0, 1, 2]).check_labels() == []


def test_check_says_whether_every_class_occurs(tmp_path: Path) -> None:
    root = masks_of(tmp_path, {"train": [[0, 1]] * 4, "val": [[0, 1]] * 2}, ("paper", "ink", "stain"))
    small = ["model=unet_same", "model.net.width=4", "model.net.levels=3", "data.image_size=32"]
    overrides = ["data=mask_folders", f"data.root={root}", *small, "data.global_batch_size=2"]
    found = check(compose("check", [*overrides, f"run.root={tmp_path / 'runs'}"]))
    assert found["labels"].startswith("data=mask_folders: train, val, test: no pixel of 1 of 3 classes: stain; ")
    (root / "classes.txt").write_text("paper\nink\n", encoding="utf-8")
    found = check(compose("check", [*overrides, f"run.root={tmp_path / 'runs'}"]))
    assert found["labels"] == "every class occurs in train, val and test"
