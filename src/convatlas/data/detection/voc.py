"""Read objects from the XML files of Pascal VOC."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.class_list import ClassList
from convatlas.data.detection.boxes import VOC_BOX, boxes_inside, check_boxes, report_left_out
from convatlas.data.detection.objects import Objects, RunLengths, count_objects, encode_masks
from convatlas.data.digests import FileDigests, text_digest
from convatlas.data.images.decode import Background, ImageError, Picture, open_picture, read_file
from convatlas.data.label_counts import Counts
from convatlas.data.sources.files import ImageFiles, file_name, leads_out, several_images, without_suffix
from convatlas.errors import UserError


class VocAnnotations:
    """Reads and checks the annotations of a list of images.

    Args:
        root: The folder that contains ``Annotations``, ``JPEGImages`` and so on.
        names: The names of the images, without suffix.

    Raises:
        UserError: A file is missing, is not XML or lacks an element; two annotations have the same image; several
            files may be the image. The message names the file.

    Attributes:
        files: The path of the image of each annotation, relative to ``JPEGImages``.
        missing: The error message of each image that does not exist, by position.
        corners: xmin, ymin, xmax, ymax of all objects as in the files, (M, 4). Pixels are counted from 1.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, list(names)
        sizes: list[list[int]] = []
        self.files: list[str] = []
        self.counts: list[int] = []
        self.missing: dict[int, str] = {}
        self.classes: list[str] = []
        images = ImageFiles(root / "JPEGImages")
        owners: dict[str, str] = {}
        corners: list[list[float]] = []
        difficult: list[bool] = []
        for name in names:
            path = root / "Annotations" / f"{name}.xml"
            try:
                # Expat limits the expansion of entities.
                annotation = ElementTree.fromstring(path.read_bytes())  # noqa: S314
                sizes.append([int(_text(annotation, f"size/{side}")) for side in ("height", "width")])
                tag = annotation.findtext("filename") or ""
                objects = annotation.findall("object")
                self.counts.append(len(objects))
                for item in objects:
                    self.classes.append(_text(item, "name"))
                    corners.append([float(_text(item, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")])
                    difficult.append(_difficult(item))
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); expected VOC's annotation") from error
            except (ElementTree.ParseError, ValueError) as error:
                raise UserError(f"{path}: expected VOC's annotation as XML ({error})") from error
            file, problem = _find_image(images, path, name, tag)
            if problem is not None:
                self.missing[len(self.files)] = problem
            if (owner := owners.setdefault(file, name)) != name:
                raise UserError(
                    f"{path}: its image is {images.folder / file}, which is that of {owner}.xml too; expected an image "
                    "for each annotation"
                )
            self.files.append(file)
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self.corners = np.array(corners, np.float64).reshape(-1, 4)
        self.difficult = np.array(difficult, np.bool_)


class VocSource:
    """The images and objects of ``VocAnnotations``.

    Args:
        annotations: The images and their annotations.
        class_list: The classes.
        in_channels: 1 for greyscale, 3 for RGB.
        masks: Whether to load the objects' masks, from ``SegmentationObject``.

    Raises:
        UserError: An object has another class, or boxes are not in pixels. The message names the file.
    """

    background: Background = None

    def __init__(self, annotations: VocAnnotations, class_list: ClassList, in_channels: int, *, masks: bool) -> None:
        self.root, self.names, self.files = annotations.root, annotations.names, annotations.files
        self.where = str(self.root / "Annotations")
        self._missing = annotations.missing
        self.in_channels = in_channels
        self.sizes = annotations.sizes
        self.has_masks = masks
        owners = np.repeat(np.arange(len(self.names)), annotations.counts)
        labels = {name: label for label, name in enumerate(class_list.names)}
        for owner, name in zip(owners.tolist(), annotations.classes, strict=True):
            if name not in labels:
                raise UserError(
                    f"{self.root / 'Annotations' / self.names[owner]}.xml: class '{name}': expected one of "
                    f"{', '.join(class_list.names)}"
                )
        corners = annotations.corners
        widths_for_ends = corners + np.concatenate([np.zeros_like(corners[:, :2]), corners[:, :2]], axis=1)
        check_boxes(corners, corners, widths_for_ends, self.sizes[owners], self.where, VOC_BOX)
        inside, kept = boxes_inside(corners - [1, 1, 0, 0], self.sizes[owners])
        # Boxes include their last pixel, but a box with equal corners is an accidental click.
        kept &= (corners[:, 2:] > corners[:, :2]).all(axis=1)
        report_left_out(str(self.root), kept, [f"in {self.names[owner]}.xml" for owner in owners.tolist()])
        self._boxes = inside[kept].astype(np.float32)
        self._labels = np.array([labels[name] for name in annotations.classes], np.int64)[kept]
        self._difficult = annotations.difficult[kept]
        self._starts = np.searchsorted(owners[kept], np.arange(len(self.names) + 1))
        # The number of each object in its mask file: objects are numbered from 1 in the order of the annotation.
        first = np.searchsorted(owners, owners)
        self._numbers = (np.arange(len(owners)) - first + 1)[kept]

    def __len__(self) -> int:
        return len(self.sizes)

    def open(self, index: int) -> Picture:
        """Read one image.

        Raises:
            ImageError: The image cannot be read, or its size differs from the annotation's.
        """
        path = self.path(index)
        if index in self._missing:
            raise ImageError(path, "unreadable", self._missing[index])
        picture = open_picture(read_file(Path(path)), self.in_channels, path, self.background)
        height, width = self.sizes[index].tolist()
        if (picture.height, picture.width) != (height, width):
            raise ImageError(
                path, "damaged", f"has {picture.width} × {picture.height} pixels, and {width} × {height} in its XML"
            )
        return picture

    def objects(self, index: int) -> Objects:
        """Return the objects of one image.

        Raises:
            UserError: The mask file is missing or has another size, or an object has no pixel in it.
        """
        chosen = slice(*self._starts[index : index + 2])
        boxes = self._boxes[chosen]
        areas = np.prod((boxes[:, 2:] - boxes[:, :2]).astype(np.float64), axis=1)
        masks: list[RunLengths] | None = None
        if self.has_masks:
            shapes = self._instances(index)[None] == self._numbers[chosen, None, None]
            masks, areas = encode_masks(shapes), shapes.sum(axis=(1, 2)).astype(np.float64)
            if not areas.all():
                number = self._numbers[chosen][areas.argmin()]
                raise UserError(f"{self._mask_path(index)}: expected a pixel of each object, none is {number}")
        return Objects(boxes, self._labels[chosen], self._difficult[chosen], areas, masks)

    def count_objects(self, indices: NDArray[np.int64], num_classes: int) -> Counts:
        """Count the objects of each class in some of the images, without difficult ones."""
        return count_objects(self._labels, self._difficult, self._starts, indices, num_classes)

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return f"{self.root}/JPEGImages/{self.files[index]}"

    @property
    def annotation_values(self) -> tuple[NDArray[Any], ...]:
        """The content of the annotations: image sizes, boxes, labels, difficult flags, first object of each image."""
        return self.sizes, self._boxes, self._labels, self._difficult, self._starts

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute the digests of names, annotations, images and, if masks are loaded, the content of the masks."""
        annotations = hashlib.sha256()
        for values in (*self.annotation_values, self._numbers):
            annotations.update(f"{values.shape}".encode() + values.tobytes())
        found = {
            "names": text_digest([*self.names, *self.files]),
            "annotations": annotations.hexdigest(),
            **files.images(len(self.names), self.path),
        }
        if self.has_masks:
            found["masks"] = files.contents(len(self.names), lambda index: str(self._mask_path(index)), "masks")
        return found

    def _mask_path(self, index: int) -> Path:
        return self.root / "SegmentationObject" / f"{self.names[index]}.png"

    def _instances(self, index: int) -> NDArray[np.uint8]:
        path = self._mask_path(index)
        try:
            with Image.open(path) as image:
                values = np.asarray(image)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error}); data.dataset.masks=true needs the objects' masks"
            ) from error
        height, width = self.sizes[index].tolist()
        if values.shape != (height, width):
            raise UserError(
                f"{path}: a mask of {' × '.join(map(str, values.shape[::-1]))} pixels, its image has {width} × {height}"
            )
        return values


def read_image_set(path: Path) -> list[str]:
    """Read the names of an image set, one per line. Text after a name on the same line is ignored.

    Raises:
        UserError: The file is missing or empty, or names an image twice or outside the data set.
    """
    try:
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected the names of a split's images") from error
    if not names:
        raise UserError(f"{path}: names no image")
    check_names(names, path)
    return names


def check_names(names: Sequence[str], path: Path) -> None:
    """Refuse a list that names an image twice or a file outside the data set.

    Raises:
        UserError: The list has such an image. The message names it.
    """
    for name in names:
        if leads_out(name):
            raise UserError(f"{path}: the image {name} would lie outside the data set; expected a name in its folder")
    if len(set(names)) < len(names):
        repeated = Counter(names).most_common(1)[0]
        raise UserError(f"{path}: names {repeated[0]} {repeated[1]} times; expected each image once")


def _find_image(images: ImageFiles, annotation: Path, name: str, tag: str) -> tuple[str, str | None]:
    """Find the image of an annotation: by its name in the list, otherwise by the ``<filename>`` of the annotation.

    Args:
        images: The files in ``JPEGImages``.
        annotation: The XML file.
        name: The name of the image in the list.
        tag: The text of ``<filename>``. It may be out of date, because some tools do not update it.

    Returns:
        The path relative to ``JPEGImages``, and the error message if there is no such file, otherwise None.

    Raises:
        UserError: Several files match.
    """
    tagged = file_name(tag)
    found, preferred = images.named(name), (tagged, f"{name}.jpg")
    if not found and tagged:
        other = without_suffix(tagged)
        if other != name and os.path.isfile(annotation.parent / f"{other}.xml"):  # noqa: PTH113  never raises
            reason = f"no image of this name, whatever its suffix, and {tag!r}, as {annotation} says, is {other}.xml's"
            return f"{name}.jpg", reason
        found, preferred = images.named(other), (tagged, tagged)
    chosen = next((file for file in preferred if file in found), None)
    if chosen is None and len(found) > 1:
        raise several_images(annotation, name, images, found)
    if chosen is None and not found:
        called = f", and none called {tag!r}" if tag else ""
        return f"{name}.jpg", f"no image of this name, whatever its suffix{called}, as {annotation} says"
    return chosen or found[0], None


def _difficult(item: ElementTree.Element) -> bool:
    text = (item.findtext("difficult") or "").strip().lower() or "0"
    if text not in ("0", "1", "false", "true"):
        raise ValueError(f"<difficult> {text!r}: expected 0 or 1")
    return text in ("1", "true")


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"no <{path.replace('/', '><')}>")
    return text.strip()
