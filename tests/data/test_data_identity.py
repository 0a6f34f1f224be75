"""Which changes of the data make another run, for every kind of data set, and which part of them is said to differ."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest
from omegaconf import DictConfig
from PIL import Image

from convatlas.config.composition import compose
from convatlas.data.digests import FileDigests
from convatlas.data.sources.images import ArraySource
from convatlas.data.sources.shapes import CLASSES
from convatlas.data.sources.shapes_on_disk import write_coco, write_voc
from convatlas.data.sources.shards import ShardSample, write_shard
from convatlas.training.plan import plan_run
from tests.fixtures import write_image_folder

SIZE = (48, 64)


class Identity(NamedTuple):
    run_id: str
    digests: dict[str, str]


def image_folder(root: Path) -> Path:
    return write_image_folder(root, ["ant", "bee"], per_class=4, size=16)


def shard_folder(root: Path) -> Path:
    root.mkdir()
    (root / "classes.txt").write_text("ant\nbee\n", encoding="utf-8")
    for shard in ("train-0", "train-1", "val-0"):
        write_shards(root / f"{shard}.tar")
    return root


def write_shards(path: Path, first: bytes = b"x", labels: int = 2) -> None:
    write_shard(path, [ShardSample(f"{index}.png", first + b"x" * index, index % labels) for index in range(4)])


def mask_folder(root: Path) -> Path:
    top = write_voc(root / "voc", {"train": 4, "val": 2}, size=SIZE)
    for split in ("train", "val"):
        for name in (top / "ImageSets" / "Main" / f"{split}.txt").read_text(encoding="utf-8").split():
            for kind, folder, suffix in (("images", "JPEGImages", "jpg"), ("masks", "SegmentationClass", "png")):
                target = root / kind / split / "town" / f"{name}.{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(top / folder / f"{name}.{suffix}", target)
    shutil.rmtree(root / "voc")
    (root / "classes.txt").write_text("\n".join(["background", *CLASSES]), encoding="utf-8")
    return root


def voc_folder(root: Path) -> Path:
    top = write_voc(root, {"train": 4, "val": 2}, size=SIZE)
    (top / "classes.txt").write_text("\n".join(["background", *CLASSES]), encoding="utf-8")
    return top


def voc_objects(root: Path) -> Path:
    return write_voc(root, {"train": 4, "val": 2}, size=SIZE)


def coco_folder(root: Path) -> Path:
    return write_coco(root, {"train2017": 4, "val2017": 2}, size=SIZE)


BOXES = ("model=faster_rcnn_resnet50_fpn", "data.dataset.masks=false", "data.val_fraction=0.25")
INSTANCES = ("model=mask_rcnn_resnet50_fpn", "data.dataset.masks=true", "data.val_fraction=0.25")
KINDS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    "folder": (image_folder, ("data=imagefolder",)),
    "shards": (shard_folder, ("data=imagefolder",)),
    "masks": (mask_folder, ("data=mask_folders", "model=unet_same", "data.val_fraction=0.25")),
    "voc masks": (voc_folder, ("data=voc_masks_folder", "model=unet_same", "data.val_fraction=0.25")),
    "voc boxes": (voc_objects, ("data=voc_objects", *BOXES)),
    "voc instances": (voc_objects, ("data=voc_objects", *INSTANCES)),
    "coco boxes": (coco_folder, ("data=coco", *BOXES)),
    "coco masks": (coco_folder, ("data=coco", *INSTANCES)),
}
IMAGE = {
    "folder": "train/ant/000.jpg",
    "shards": "train-0.tar",
    "masks": "images/train/town/2012_000000.jpg",
    "voc": "JPEGImages/2012_000000.jpg",
    "coco": "train2017/000000000000.jpg",
}
"""A training image, or a shard, by the first word of a kind."""


@cache
def composed(kind: str, fingerprint: str) -> DictConfig:
    return compose("train", [*KINDS[kind][1], f"data.fingerprint={fingerprint}", "data.root=/set/later"])


def identity(kind: str, root: Path, fingerprint: str = "size") -> Identity:
    config = composed(kind, fingerprint).copy()
    config.data.root = str(root)
    run, data = plan_run(config)
    return Identity(run.run_id, data.digests)


def differences(before: Identity, after: Identity) -> set[str]:
    """The parts that differ; the run must be another one exactly where there are some."""
    parts = {part for part in before.digests | after.digests if before.digests.get(part) != after.digests.get(part)}
    assert (before.run_id != after.run_id) == bool(parts)
    return parts


def rewrite_mask(path: Path) -> None:
    """Swap two classes of a mask: the file keeps its name, and its time of change is set back."""
    status = path.stat()
    with Image.open(path) as mask:
        values, palette = np.array(mask), mask.getpalette()
    swapped = values.copy()
    swapped[values == 1], swapped[values == 2] = 2, 1
    swapped[0, 0] = 3
    changed = Image.fromarray(swapped)
    changed.putpalette(palette or [])
    changed.save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["annotations"][0] |= values
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_xml(path: Path, element: str, text: str) -> None:
    tree = ElementTree.parse(path)  # noqa: S314
    found = tree.find(element)
    assert found is not None
    found.text = text
    tree.write(path)


def swap_classes(path: Path) -> None:
    first, second, *rest = path.read_text(encoding="utf-8").split()
    path.write_text("\n".join([second, first, *rest]), encoding="utf-8")


def drop_first_line(path: Path) -> None:
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")


TRAIN_XML = "Annotations/2012_000000.xml"
TRAIN_JSON, TEST_JSON = (f"annotations/instances_{split}.json" for split in ("train2017", "val2017"))
WHOLE = {"size": list(SIZE), "counts": [100, 200, 48 * 64 - 300]}
CHANGES: list[tuple[str, str, Callable[[Path], Any], set[str]]] = [
    ("folder", "val/bee/001.jpg", lambda path: path.rename(path.with_name("001a.jpg")), {"test/names"}),
    ("folder", "val/bee/001.jpg", lambda path: path.unlink(), {"test/names", "test/image_sizes"}),
    ("shards", "train-1.tar", lambda path: write_shards(path, b"xx"), {"train/index"}),
    ("shards", "val-0.tar", lambda path: write_shards(path, labels=1), {"test/index"}),
    ("shards", "train-1.tar", lambda path: path.write_bytes(path.read_bytes() + bytes(512)), {"train/shard_sizes"}),
    ("shards", "classes.txt", swap_classes, {"classes"}),
    ("masks", "masks/train/town/2012_000001.png", rewrite_mask, {"train/masks"}),
    ("masks", "masks/val/town/2012_000005.png", rewrite_mask, {"test/masks"}),
    ("masks", "classes.txt", swap_classes, {"classes"}),
    ("voc masks", "SegmentationClass/2012_000001.png", rewrite_mask, {"train/masks"}),
    ("voc masks", "SegmentationClass/2012_000005.png", rewrite_mask, {"test/masks"}),
    ("voc masks", "ImageSets/Segmentation/val.txt", drop_first_line, {"test/names", "test/image_sizes", "test/masks"}),
    ("voc masks", "SegmentationObject/2012_000001.png", rewrite_mask, set()),
    ("voc boxes", TRAIN_XML, lambda path: edit_xml(path, "object/bndbox/xmin", "2"), {"train/annotations"}),
    ("voc boxes", TRAIN_XML, lambda path: edit_xml(path, "object/difficult", "1"), {"train/annotations"}),
    ("voc boxes", "SegmentationObject/2012_000001.png", rewrite_mask, set()),
    ("voc instances", "SegmentationObject/2012_000001.png", rewrite_mask, {"train/masks"}),
    ("voc instances", "SegmentationObject/2012_000005.png", rewrite_mask, {"test/masks"}),
    ("voc instances", TRAIN_XML, lambda path: edit_xml(path, "object/bndbox/xmin", "2"), {"train/annotations"}),
    ("coco boxes", TRAIN_JSON, lambda path: edit_json(path, bbox=[1, 1, 9, 9]), {"train/annotations"}),
    ("coco boxes", TEST_JSON, lambda path: edit_json(path, iscrowd=1), {"test/annotations"}),
    ("coco masks", TRAIN_JSON, lambda path: edit_json(path, segmentation=WHOLE), {"train/annotations"}),
]


@pytest.mark.parametrize(("kind", "name", "change", "expected"), CHANGES)
def test_what_the_network_sees_otherwise_is_another_run(
    kind: str, name: str, change: Callable[[Path], Any], expected: set[str], tmp_path: Path
) -> None:
    root = KINDS[kind][0](tmp_path / "data")
    before = identity(kind, root)
    change(root / name)
    assert differences(before, identity(kind, root)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_images_count_by_size_or_by_content(kind: str, tmp_path: Path) -> None:
    root = KINDS[kind][0](tmp_path / "data")
    image = root / IMAGE[kind.partition(" ")[0]]
    what = "shard" if kind == "shards" else "image"
    by_size, by_content = (identity(kind, root, fingerprint) for fingerprint in ("size", "content"))
    assert by_size.run_id != by_content.run_id

    status, content = image.stat(), image.read_bytes()
    image.write_bytes(content[:-1] + b"?")
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert differences(by_size, identity(kind, root)) == set()
    assert differences(by_content, identity(kind, root, "content")) == {f"train/{what}_contents"}

    image.write_bytes(content + b"?")
    assert differences(by_size, identity(kind, root)) == {f"train/{what}_sizes"}


@pytest.mark.parametrize("fingerprint", ["size", "content"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_elsewhere_with_other_times_is_the_same_data(kind: str, fingerprint: str, tmp_path: Path) -> None:
    root = KINDS[kind][0](tmp_path / "data")
    before = identity(kind, root, fingerprint)
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))
    assert identity(kind, root, fingerprint) == before
    copied = shutil.copytree(root, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)
    assert identity(kind, copied, fingerprint) == before


def test_arrays_count_by_their_content() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (6, 5, 4, 3), np.uint8)
    labels = np.arange(6)

    def digests(images: Any, labels: Any) -> dict[str, str]:
        return ArraySource(images, labels, "arrays").digests(FileDigests())

    before = digests(images, labels)
    assert digests(images.copy(), labels.tolist()) == before
    other = images.copy()
    other[5, 4, 3, 2] ^= 1
    assert {part for part, digest in digests(other, labels).items() if before[part] != digest} == {"image_contents"}
    assert {part for part, digest in digests(images, labels[::-1].copy()).items() if before[part] != digest} == {
        "labels"
    }
    assert digests(images.reshape(6, 4, 5, 3), labels)["image_contents"] != before["image_contents"]


def test_which_split_an_image_is_in_counts(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "data")
    cut = identity("folder", root)
    assert not any(part.startswith("val/") for part in cut.digests)
    shutil.copytree(root / "val", root / "test")
    own = identity("folder", root)
    assert differences(cut, own) == {"val/names", "val/image_sizes"}
    (root / "val").rename(root / "x")
    (root / "train").rename(root / "val")
    (root / "x").rename(root / "train")
    # Both have the same names here, so that the sizes alone tell which images are trained on.
    assert differences(own, identity("folder", root)) == {"train/image_sizes", "val/image_sizes"}


def test_scenes_count_by_what_they_are_a_function_of() -> None:
    def run_id(data: str, model: str, *overrides: str) -> str:
        return plan_run(compose("train", [f"data={data}", f"model={model}", *overrides]))[0].run_id

    for data, model in (("shapes_masks", "unet_same"), ("shapes_objects", "mask_rcnn_resnet18_fpn")):
        first = run_id(data, model)
        assert run_id(data, model, "data.fingerprint=content") == first
        assert run_id(data, model, "data.dataset.scenes_seed=1") != first
