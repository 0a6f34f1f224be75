"""Scenes of shapes as files, in the layouts of COCO and of Pascal VOC."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.sources.shapes import CLASSES, Scene, scene
from convatlas.utils.files import dumps

COCO_CATEGORY_IDS = (1, 3, 4, 7)
"""Category id of each class: like COCO's own, from 1 and with gaps."""


def write_coco(root: Path, splits: Mapping[str, int], *, seed: int = 0, size: tuple[int, int] = (128, 128)) -> Path:
    """Write ``root/<split>/<image>.jpg`` and ``root/annotations/instances_<split>.json``, masks as run lengths.

    Args:
        root: The folder, made if need be.
        splits: Number of scenes by split, such as ``{"train2017": 100, "val2017": 20}``.
        seed: Seed of the scenes.
        size: Height and width of an image in pixels.

    Returns:
        ``root``.
    """
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, scenes in _by_split(splits, seed, size).items():
        (root / split).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, shown in scenes:
            name = f"{number:012d}.jpg"
            Image.fromarray(shown.image).save(root / split / name, quality=95)
            images.append({"id": number, "file_name": name, "height": size[0], "width": size[1]})
            for box, label, mask in zip(shown.boxes.tolist(), shown.labels.tolist(), shown.masks, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": COCO_CATEGORY_IDS[label],
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": int(mask.sum()),
                        "segmentation": {"size": list(size), "counts": run_lengths(mask)},
                        "iscrowd": 0,
                    }
                )
        categories = [
            {"id": number, "name": name, "supercategory": "shape"}
            for number, name in zip(COCO_CATEGORY_IDS, CLASSES, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(dumps(content), encoding="utf-8")
    return root


def write_voc(root: Path, splits: Mapping[str, int], *, seed: int = 0, size: tuple[int, int] = (128, 128)) -> Path:
    """Write the layout of VOC 2012 into ``root/VOCdevkit/VOC2012``, where torchvision looks for it under ``root``.

    Annotations count pixels from 1 and include the last; outlines are void (255) in both kinds of mask.

    Args:
        root: The folder, made if need be.
        splits: Number of scenes by split, such as ``{"train": 100, "val": 20}``.
        seed: Seed of the scenes.
        size: Height and width of an image in pixels.

    Returns:
        ``root/VOCdevkit/VOC2012``.
    """
    top = root / "VOCdevkit" / "VOC2012"
    folders = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject")
    for folder in (*folders, "ImageSets/Main", "ImageSets/Segmentation"):
        (top / folder).mkdir(parents=True, exist_ok=True)
    for split, scenes in _by_split(splits, seed, size).items():
        names = []
        for number, shown in scenes:
            name = f"2012_{number:06d}"
            names.append(name)
            Image.fromarray(shown.image).save(top / "JPEGImages" / f"{name}.jpg", quality=95)
            _palette_image(shown.semantic()).save(top / "SegmentationClass" / f"{name}.png")
            _palette_image(shown.instances()).save(top / "SegmentationObject" / f"{name}.png")
            _annotation(name, shown).write(top / "Annotations" / f"{name}.xml")
        for kind in ("Main", "Segmentation"):
            (top / "ImageSets" / kind / f"{split}.txt").write_text(
                "".join(f"{name}\n" for name in names), encoding="utf-8"
            )
    return top


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """A mask (H, W) as COCO's uncompressed run lengths: down the columns, zeros first."""
    values = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(values[1:] != values[:-1])
    return [int(length) for length in np.diff(np.concatenate([[0], edges, [mask.size]]))]


def voc_palette() -> list[int]:
    """The 256 colours of VOC's masks, as 768 numbers: the bits of a label, dealt to the high bits of R, G and B."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for bit in range(8):
        colours |= ((labels[:, None] >> (3 * bit + np.arange(3))) & 1) << (7 - bit)
    return [int(value) for value in colours.ravel()]


def _by_split(splits: Mapping[str, int], seed: int, size: tuple[int, int]) -> dict[str, Iterator[tuple[int, Scene]]]:
    """The numbered scenes of each split; no scene is in two."""
    scenes: dict[str, Iterator[tuple[int, Scene]]] = {}
    start = 0
    for split, count in splits.items():
        scenes[split] = ((number, scene(seed, number, size)) for number in range(start, start + count))
        start += count
    return scenes


def _palette_image(values: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(voc_palette())
    return image


def _annotation(name: str, shown: Scene) -> "ElementTree.ElementTree[ElementTree.Element]":
    height, width = shown.image.shape[:2]
    root = ElementTree.Element("annotation")
    _add(root, {"folder": "VOC2012", "filename": f"{name}.jpg"})
    _add(ElementTree.SubElement(root, "size"), {"width": width, "height": height, "depth": 3})
    _add(root, {"segmented": 1})
    for box, label in zip(shown.boxes.astype(int).tolist(), shown.labels.tolist(), strict=True):
        item = ElementTree.SubElement(root, "object")
        _add(item, {"name": CLASSES[label], "truncated": 0, "difficult": 0})
        corners = {"xmin": box[0] + 1, "ymin": box[1] + 1, "xmax": box[2], "ymax": box[3]}
        _add(ElementTree.SubElement(item, "bndbox"), corners)
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, texts: Mapping[str, object]) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)
