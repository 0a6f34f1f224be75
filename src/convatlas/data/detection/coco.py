"""Read objects from COCO's JSON files."""

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as coco_mask
from numpy.typing import NDArray

from convatlas.data.class_list import ClassList
from convatlas.data.detection.boxes import COCO_BOX, boxes_inside, check_boxes, report_left_out
from convatlas.data.detection.objects import Objects, RunLengths, count_objects
from convatlas.data.digests import FileDigests
from convatlas.data.images.decode import Background, ImageError, Picture, open_picture, read_file
from convatlas.data.label_counts import Counts
from convatlas.data.sources.files import file_name, leads_out
from convatlas.errors import UserError
from convatlas.utils.nesting import is_writable

Id = int | str


class CocoFile:
    """Reads and checks an ``instances_*.json`` file.

    Args:
        path: The file.

    Raises:
        UserError: The file does not exist, is not in COCO's format, lists no image, or has an ambiguous or malformed
            id or name. The message names the entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            encoded = path.read_bytes()
            content = json.loads(encoded)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); expected COCO's annotations") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: expected COCO's annotations as JSON ({error})") from error
        self.digest = hashlib.sha256(encoded).digest()
        try:
            self.images = _by_id(content["images"], f"{path}: image", "file_name")
            categories = _by_id(content["categories"], f"{path}: category", "name")
            self.categories = {number: str(item["name"]) for number, item in categories.items()}
            self.annotations: list[dict[str, Any]] = content["annotations"]
            self.sizes = np.array([[image["height"], image["width"]] for image in self.images.values()], np.int64)
            self.file_names = [str(image["file_name"]) for image in self.images.values()]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: expected images (id, file_name, height, width), annotations and categories (id, name) as in "
                f"COCO's instances files; {error} is wrong or missing"
            ) from error
        if not is_writable([self.file_names, self.categories]):
            raise UserError(f"{path}: expected names that UTF-8 can write, found half a surrogate pair (\\ud800 …)")
        if not self.images:
            raise UserError(f"{path}: lists no image")
        if len(set(self.categories.values())) < len(self.categories) or not self.categories:
            raise UserError(f"{path}: expected categories, each with a name of its own")
        if len({type(number) for number in self.categories}) > 1:  # their order determines the order of the classes
            raise UserError(f"{path}: category ids {list(self.categories)}: expected only numbers, or only texts")

    @property
    def class_list(self) -> ClassList:
        """The classes: the categories in the order of their ids. Ids may have gaps."""
        return ClassList(tuple(self.categories[number] for number in self.category_ids))

    @property
    def category_ids(self) -> list[Id]:
        """The sorted ids of the categories: numbers by value, strings alphabetically."""
        return sorted(self.categories)  # all ids have the same type


class CocoSource:
    """The images and objects of an ``instances_*.json`` file.

    Args:
        file: The annotations.
        folder: The folder of the images.
        class_list: The classes. The categories of the file must be equal to them.
        in_channels: 1 for greyscale, 3 for RGB.
        masks: Whether to load the objects' masks.

    Raises:
        UserError: The categories differ from the classes; an annotation refers to an unknown image or category, has
            the id of another annotation, or has a malformed crowd flag, box or mask; boxes are not in pixels; two
            images have the same file.
    """

    background: Background = None

    def __init__(self, file: CocoFile, folder: Path, class_list: ClassList, in_channels: int, *, masks: bool) -> None:
        class_list.check_equal(file.class_list, "the training split", str(file.path))
        self.folder = folder
        self.in_channels = in_channels
        self.file_names, self._missing = _find_files(folder, file)
        self.sizes = file.sizes
        self.has_masks = masks
        self.where = str(file.path)
        self.annotation_digest = file.digest
        positions = {number: position for position, number in enumerate(file.images)}
        labels = {number: label for label, number in enumerate(file.category_ids)}
        rows_by_id: dict[Id, int] = {}
        count = len(file.annotations)
        owners, self._labels = np.empty(count, np.int64), np.empty(count, np.int64)
        boxes, self._crowd = np.empty((count, 4)), np.zeros(count, np.bool_)
        for row, item in enumerate(file.annotations):
            name = f"{file.path}: annotation {item.get('id', row)}"
            number = item.get("id")
            if number is not None and (first := rows_by_id.setdefault(_identifier(number, name), row)) != row:
                raise UserError(
                    f"{name}: entries {first} and {row} of annotations have this id; expected an id of its own for each"
                )
            image, category = (_identifier(item.get(key), f"{name}: {key}") for key in ("image_id", "category_id"))
            if image not in positions:
                raise UserError(f"{name}: image_id {image!r} is none of the images")
            if category not in labels:
                raise UserError(f"{name}: category_id {category!r} is none of {list(labels)}")
            owners[row], self._labels[row] = positions[image], labels[category]
            self._crowd[row] = _crowd(item.get("iscrowd", 0), name)
            try:
                boxes[row] = item["bbox"]
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{name}: bbox {item.get('bbox')}: expected x, y, width and height") from error
            if masks:
                _check_mask(item.get("segmentation"), self.sizes[owners[row]], name)
        numbers = boxes.copy()
        boxes[:, 2:] += boxes[:, :2]
        check_boxes(numbers, boxes, numbers, self.sizes[owners], str(file.path), COCO_BOX)
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

    def __len__(self) -> int:
        return len(self.sizes)

    def open(self, index: int) -> Picture:
        """Read one image.

        Raises:
            ImageError: The image cannot be read, or its size differs from the annotations'.
        """
        path = self.path(index)
        if index in self._missing:
            raise ImageError(path, "unreadable", self._missing[index])
        picture = open_picture(read_file(Path(path)), self.in_channels, path, self.background)
        height, width = self.sizes[index].tolist()
        if (picture.height, picture.width) != (height, width):
            raise ImageError(
                path,
                "damaged",
                f"has {picture.width} × {picture.height} pixels, and {width} × {height} in {self.where}; its boxes "
                "would not fit",
            )
        return picture

    def objects(self, index: int) -> Objects:
        """Return the objects of one image."""
        chosen = slice(*self._starts[index : index + 2])
        height, width = self.sizes[index].tolist()
        masks = None
        if self.has_masks:
            masks = [_run_lengths(mask, height, width) for mask in self._masks[chosen]]
        return Objects(self._boxes[chosen], self._labels[chosen], self._crowd[chosen], self._areas[chosen], masks)

    def count_objects(self, indices: NDArray[np.int64], num_classes: int) -> Counts:
        """Count the objects of each class in some of the images, without crowds."""
        return count_objects(self._labels, self._crowd, self._starts, indices, num_classes)

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return f"{self.folder}/{self.file_names[index]}"

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute the digests of the annotation file, which contains the names of the images, and of the images."""
        return {"annotations": self.annotation_digest.hex(), **files.images(len(self.sizes), self.path)}


def _by_id(items: Sequence[Mapping[str, Any]], kind: str, described_by: str) -> dict[Id, Mapping[str, Any]]:
    """Index the entries of a list by id. Raises a ``UserError`` if two entries have the same id."""
    found: dict[Id, Mapping[str, Any]] = {}
    for item in items:
        number = _identifier(item["id"], f"{kind} id")
        if (other := found.setdefault(number, item)) is not item:
            raise UserError(
                f"{kind} id {number!r}: {other.get(described_by)!r} and {item.get(described_by)!r} have it; "
                "expected an id of its own for each"
            )
    return found


def _identifier(value: object, name: str) -> Id:
    """Normalise an id so that 1, 1.0 and "1" are equal.

    Raises:
        UserError: The id is neither a whole number nor a non-empty string; true and false are not ids.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value:
        return int(value) if re.fullmatch("0|[1-9][0-9]{0,17}", value) else value
    raise UserError(f"{name}: {value!r} is no id; expected a whole number or a text")


def _find_files(folder: Path, file: CocoFile) -> tuple[list[str], dict[int, str]]:
    """Find the file of each image in a folder.

    ``file_name`` is tried as a path relative to the folder; then with slashes in place of backslashes; then only its
    last part. Paths that lead out of the folder are not tried.

    Returns:
        The relative paths, and the error message of each missing file by position.

    Raises:
        UserError: Two images have the same file, or a ``file_name`` is not the name of a file in the folder.
    """
    names: list[str] = []
    missing: dict[int, str] = {}
    owners: dict[str, Id] = {}
    for number, written in zip(file.images, file.file_names, strict=True):
        written_places = [written, written.replace("\\", "/"), file_name(written)]
        places = [place for place in dict.fromkeys(written_places) if place and not leads_out(place)]
        if not places:
            raise UserError(f"{file.path}: image {number!r}: file_name {written!r} is no name of a file in {folder}")
        found = [place for place in places if os.path.isfile(f"{folder}/{place}")]  # noqa: PTH113  never raises
        if not found:
            other = f", nor is there {folder}/{places[-1]}" if len(places) > 1 else ""
            missing[len(names)] = f"no such file{other}; expected the image that {file.path} calls {written!r}"
        name = posixpath.normpath([*found, *places][0])
        if (owner := owners.setdefault(name, number)) != number:
            raise UserError(
                f"{file.path}: images {owner!r} and {number!r} are both {folder}/{name}; expected one entry for a file"
            )
        names.append(name)
    return names, missing


def _crowd(value: object, name: str) -> bool:
    if value not in (0, 1):
        raise UserError(f"{name}: iscrowd {value!r}: expected 0, 1, true or false")
    return bool(value)


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
    """Convert polygons to arrays, because lists of numbers take ten times the memory."""
    return segmentation if isinstance(segmentation, Mapping) else [np.asarray(part) for part in segmentation]


def _run_lengths(segmentation: Any, height: int, width: int) -> RunLengths:
    polygons = isinstance(segmentation, Sequence)
    mask: RunLengths = coco_mask.segmToRle(
        [part.tolist() for part in segmentation] if polygons else segmentation, width, height
    )
    return mask
