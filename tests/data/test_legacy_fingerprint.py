"""The fingerprints that commit a11ee17 gave to small data sets of every kind; records of that time hold such values."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image

from convatlas.config.composition import compose
from convatlas.data.class_list import ClassList
from convatlas.data.classification.module import ClassificationDataModule
from convatlas.data.dataset import Dataset
from convatlas.data.legacy_fingerprint import legacy_fingerprint
from convatlas.data.module import ImageDataModule
from convatlas.data.sources.images import ArraySource
from convatlas.data.sources.shards import ShardSample, write_shard

XML = """<annotation><filename>{name}.png</filename><size><width>8</width><height>8</height></size>
<object><name>{label}</name><difficult>{difficult}</difficult>
<bndbox><xmin>2</xmin><ymin>1</ymin><xmax>7</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>"""


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)
    return path


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def module(*overrides: str) -> ImageDataModule:
    data: ImageDataModule = instantiate(compose("train", overrides).data)
    return data


def folder(root: Path) -> ImageDataModule:
    for name in ("train/ant/1.png", "train/ant/2.png", "train/bee/x/3.png", "train/bee/4.png"):
        image(root / name)
    for name in ("val/ant/1.png", "val/bee/2.png", "test/ant/9.png", "test/bee/8.png"):
        image(root / name)
    return module("data=imagefolder", f"data.root={root}")


def cut_folder(root: Path) -> ImageDataModule:
    for name in ("train/ant/1.png", "train/ant/2.png", "train/bee/3.png", "train/bee/4.png", "val/ant/5.png"):
        image(root / name)
    image(root / "val/bee/6.png")
    return module("data=imagefolder", f"data.root={root}")


def shards(root: Path) -> ImageDataModule:
    text(root / "classes.txt", "ant\nbee\n")
    write_shard(
        root / "train-0.tar", [ShardSample(f"{index}.png", b"x" * (index + 1), index % 2) for index in range(4)]
    )
    write_shard(root / "train-1.tar", [ShardSample("4.png", b"xyz", 0), ShardSample("5.png", b"xy", 1)])
    write_shard(root / "val-0.tar", [ShardSample("0.png", b"x", 1)])
    return module("data=imagefolder", f"data.root={root}")


def arrays(root: Path) -> ImageDataModule:
    def source(name: str, labels: list[int]) -> ArraySource:
        return ArraySource(np.zeros((len(labels), 4, 4), np.uint8), labels, name)

    return ClassificationDataModule(
        name="arrays",
        dataset=lambda _: Dataset(ClassList(("a", "b")), source("x/train", [0, 0, 1, 1]), source("x/test", [1, 0])),
        num_classes=2,
        in_channels=1,
        image_size=4,
        resize=None,
        mean=[0.5],
        std=[0.5],
        val_fraction=0.5,
        global_batch_size=2,
        threads=1,
        prefetch=0,
        seed=0,
    )


def masks(root: Path) -> ImageDataModule:
    text(root / "classes.txt", "ground\n")
    for name in ("train/a", "train/sub/b", "val/c"):
        image(root / "images" / f"{name}_left.png")
        image(root / "masks" / f"{name}_ids.png")
    suffixes = ("data.dataset.image_suffix=_left", "data.dataset.mask_suffix=_ids")
    return module("model=unet", "data=mask_folders", f"data.root={root}", "data.val_fraction=0.5", *suffixes)


def mask_scenes(root: Path) -> ImageDataModule:
    sizes = ("data.dataset.train=10", "data.dataset.test=2", "data.dataset.size=32", "data.dataset.scenes_seed=3")
    return module("model=unet", "data=shapes_masks", *sizes)


def coco(root: Path) -> ImageDataModule:
    for split, numbers in (("train2017", (1, 2, 3)), ("val2017", (4,))):
        for number in numbers:
            image(root / split / f"{number}.png")
        content = {
            "images": [{"id": number, "file_name": f"{number}.png", "height": 8, "width": 8} for number in numbers],
            "categories": [{"id": 1, "name": "ant"}],
            "annotations": [
                {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 2, 3, 4]} for number in numbers
            ],
        }
        text(root / "annotations" / f"instances_{split}.json", json.dumps(content))
    return module("model=faster_rcnn_resnet50_fpn", "data=coco", f"data.root={root}", "data.dataset.masks=false")


def voc(root: Path) -> ImageDataModule:
    for split, names in (("train", ("a", "b", "c")), ("val", ("d", "e"))):
        text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names))
        for number, name in enumerate(names):
            image(root / "JPEGImages" / f"{name}.png")
            label = "ant" if number else "bee"
            xml = XML.format(name=name, label=label, difficult=number % 2, bottom=4 + number)
            text(root / "Annotations" / f"{name}.xml", xml)
    return module("model=faster_rcnn_resnet50_fpn", "data=voc_objects", f"data.root={root}", "data.dataset.masks=false")


def object_scenes(root: Path) -> ImageDataModule:
    sizes = ("data.dataset.train=10", "data.dataset.test=2", "data.dataset.size=[32,48]", "data.dataset.scenes_seed=3")
    return module("model=mask_rcnn_resnet18_fpn", "data=shapes_objects", *sizes)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (folder, "42fb956f7d54168f270e0e3c91f6adc6cafc8903cc68ffa315ac43a41ce6ffc6"),
        (cut_folder, "7d52ff13a5d1b785cf6f78bdcc6fb4267729fa888022ec688fbc0b63314cfa20"),
        (shards, "7029fe97525a5c607adeb9154dbc83115e0083426daa78e5917e1440a1ba0daf"),
        (arrays, "77d1d4ca275d8499f5407c02bcd8cbbc616c519655e2a79bb2083022f8a3caff"),
        (masks, "3655d7bb4e33dacdcefe81c637370b114fbed60610449ed5d631631d227a6e75"),
        (mask_scenes, "335a66a05f2e39d0781bbe38b7d0f0e166d8ddacfbf10649e2258205f57336de"),
        (coco, "855127283d36a8966b642a5d1026ed6e20c2c90f404bac931242abe1b3e512f1"),
        (voc, "c3a45bd490d4e4a994a112c49e3f6690eee69d8da8ec2de23397f566842f01c6"),
        (object_scenes, "aa0cf734045166d0f29b6b62662ee59b9fd82a44c25d384df580f6eb43bfdcb4"),
    ],
)
def test_the_fingerprint_is_that_of_a_record_of_that_time(
    make: Callable[[Path], ImageDataModule], expected: str, tmp_path: Path
) -> None:
    assert legacy_fingerprint(make(tmp_path)) == expected
