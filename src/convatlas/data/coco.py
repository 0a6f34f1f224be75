"""Objects from COCO's JSON files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from convatlas.data.class_list import ClassList
from convatlas.data.decode import ImageError, Picture, open_picture, read_file
from convatlas.data.digests import FileDigests
from convatlas.data.objects import Objects, RunLengths, boxes_inside, report_left_out
from convatlas.errors import UserError


class CocoFile:
    """An ``instances_*.json``, read and checked.

    Args:
        path: The file.

    Raises:
        UserError: No such file, not COCO's form, or something in it that refers to nothing; names the entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            encoded = path.read_bytes()
            content = json.loads(encoded)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); expected COCO's annotations") from error
        except ValueError as error:
            raise UserError(f"{path}: expected COCO's annotations as JSON ({error})") from error
        self.digest = hashlib.sha256(encoded).digest()
        try:
            self.images = {image["id"]: image for image in content["images"]}
            self.categories = {int(item["id"]): str(item["name"]) for item in content["categories"]}
            self.annotations: list[dict[str, Any]] = content["annotations"]
            self.sizes = np.array([[image["height"], image["width"]] for image in self.images.values()], np.int64)
            self.file_names = [str(image["file_name"]) for image in self.images.values()]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: expected images (id, file_name, height, width), annotations and categories (id, name) as in "
                f"COCO's instances files; {error} is wrong or missing"
            ) from error
        if not self.images:
            raise UserError(f"{path}: lists no image")
        if len(set(self.categories.values())) < len(self.categories) or not self.categories:
            raise UserError(f"{path}: expected categories, each with a name of its own")

    @property
    def class_list(self) -> ClassList:
        """The categories in the order of their ids, which may have gaps."""
        return ClassList(tuple(self.categories[number] for number in sorted(self.categories)))


class CocoSource:
    """The images of an ``instances_*.json``.

    Args:
        file: The annotations.
        folder: The folder of the images.
        class_list: The classes; the file's categories must be these.
        in_channels: 1 for greyscale, 3 for RGB.
        masks: Whether the objects' masks are wanted.

    Raises:
        UserError: Other categories; an annotation of an unknown image or category, or with a malformed box or mask.
    """

    def __init__(self, file: CocoFile, folder: Path, class_list: ClassList, in_channels: int, *, masks: bool) -> None:
        class_list.check_equal(file.class_list, "the training split", str(file.path))
        self.folder = folder
        self.in_channels = in_channels
        self.file_names = file.file_names
        self.sizes = file.sizes
        self.has_masks = masks
        self._where = file.path
        self.annotation_digest = file.digest
        positions = {number: position for position, number in enumerate(file.images)}
        labels = {number: label for label, number in enumerate(sorted(file.categories))}
        count = len(file.annotations)
        owners, self._labels = np.empty(count, np.int64), np.empty(count, np.int64)
        boxes, self._crowd = np.empty((count, 4)), np.zeros(count, np.bool_)
        for row, item in enumerate(file.annotations):
            name = f"{file.path}: annotation {item.get('id', row)}"
            if item.get("image_id") not in positions:
                raise UserError(f"{name}: image_id {item.get('image_id')} is none of the images")
            if item.get("category_id") not in labels:
                raise UserError(f"{name}: category_id {item.get('category_id')} is none of {sorted(labels)}")
            owners[row], self._labels[row] = positions[item["image_id"]], labels[item["category_id"]]
            self._crowd[row] = bool(item.get("iscrowd", 0))
            try:
                boxes[row] = item["bbox"]
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{name}: bbox {item.get('bbox')}: expected x, y, width and height") from error
            if masks:
                _check_mask(item.get("segmentation"), self.sizes[owners[row]], name)
        boxes[:, 2:] += boxes[:, :2]
        inside, kept = boxes_inside(boxes, self.sizes[owners])
        report_left_out(str(file.path), kept, [f"annotation {item.get('id')}" for item in file.annotations])
        order = np.flatnonzero(kept)[np.argsort(owners[kept], kind="stable")]
        self._boxes = inside[order].astype(np.float32)
        self._labels, self._crowd = self._labels[order], self._crowd[order]
        self._areas = np.array([file.annotations[row].get("area", np.nan) for row in order], np.float64)
        unknown = ~np.isfinite(self._areas)
        self._areas[unknown] = np.prod(self._boxes[unknown, 2:] - self._boxes[unknown, :2], axis=1)
        self._starts = np.searchsorted(owners[order], np.arange(len(self.sizes) + 1))
        self._masks = [_compact(file.annotations[row]["segmentation"]) for row in order] if masks else []

    def open(self, index: int) -> Picture:
        """Read one image.

        Raises:
            ImageError: It cannot be read, or has another size than the annotations say.
        """
        path = self.path(index)
        picture = open_picture(read_file(Path(path)), self.in_channels, path)
        height, width = self.sizes[index].tolist()
        if (picture.height, picture.width) != (height, width):
            raise ImageError(
                path,
                "damaged",
                f"has {picture.width} × {picture.height} pixels, and {width} × {height} in {self._where}; its boxes "
                "would not fit",
            )
        return picture

    def objects(self, index: int) -> Objects:
        """What is in one image."""
        chosen = slice(*self._starts[index : index + 2])
        height, width = self.sizes[index].tolist()
        masks = None
        if self.has_masks:
            masks = [_run_lengths(mask, height, width) for mask in self._masks[chosen]]
        return Objects(self._boxes[chosen], self._labels[chosen], self._crowd[chosen], self._areas[chosen], masks)

    def path(self, index: int) -> str:
        """The image's path."""
        return f"{self.folder}/{self.file_names[index]}"

    def digests(self, files: FileDigests) -> dict[str, str]:
        """The annotations, which name the images, and the images."""
        return {"annotations": self.annotation_digest.hex(), **files.images(len(self.sizes), self.path)}


def _check_mask(segmentation: object, size: NDArray[np.int64], name: str) -> None:
    height, width = size.tolist()
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", [])) != [height, width]:
            raise UserError(
                f"{name}: its mask has size {segmentation.get('size')}, its image [{height}, {width}] (height, width)"
            )
        counts = segmentation.get("counts")
        if isinstance(counts, str) or (isinstance(counts, list) and sum(counts) == height * width):
            return
    elif isinstance(segmentation, list) and segmentation and all(map(_is_polygon, segmentation)):
        return
    raise UserError(
        f"{name}: segmentation: expected polygons of three points or more, or run lengths of the image's size"
    )


def _is_polygon(part: object) -> bool:
    return isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0


def _compact(segmentation: Any) -> Any:
    """Polygons as arrays: lists of numbers take ten times the memory."""
    return segmentation if isinstance(segmentation, Mapping) else [np.asarray(part) for part in segmentation]


def _run_lengths(segmentation: Any, height: int, width: int) -> RunLengths:
    polygons = isinstance(segmentation, Sequence)
    mask: RunLengths = coco_mask.segmToRle(
        [part.tolist() for part in segmentation] if polygons else segmentation, width, height
    )
    return mask
