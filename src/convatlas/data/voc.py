"""Objects from the XML files of Pascal VOC."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.class_list import ClassList
from convatlas.data.decode import ImageError, Picture, open_picture, read_file
from convatlas.data.digests import FileDigests, text_digest
from convatlas.data.objects import Objects, RunLengths, boxes_inside, encode_masks, report_left_out
from convatlas.errors import UserError


class VocAnnotations:
    """The ``Annotations`` of a list of images, read and checked.

    Args:
        root: The folder of ``Annotations``, ``JPEGImages`` and so on.
        names: Of the images, without suffix.

    Raises:
        UserError: A file is missing, no XML, or lacks something; names it.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root, self.names = root, list(names)
        sizes, self.files, self.counts = [], [], []
        self.classes: list[str] = []
        boxes: list[list[float]] = []
        difficult: list[bool] = []
        for name in names:
            path = root / "Annotations" / f"{name}.xml"
            try:
                # Expat bounds what entities expand to.
                annotation = ElementTree.fromstring(path.read_bytes())  # noqa: S314
                sizes.append([int(_text(annotation, f"size/{side}")) for side in ("height", "width")])
                self.files.append(annotation.findtext("filename") or f"{name}.jpg")
                objects = annotation.findall("object")
                self.counts.append(len(objects))
                for item in objects:
                    self.classes.append(_text(item, "name"))
                    corners = [float(_text(item, f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
                    boxes.append([corners[0] - 1, corners[1] - 1, corners[2], corners[3]])  # pixels count from 1
                    difficult.append((item.findtext("difficult") or "0").strip() == "1")
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); expected VOC's annotation") from error
            except (ElementTree.ParseError, ValueError) as error:
                raise UserError(f"{path}: expected VOC's annotation as XML ({error})") from error
        self.sizes = np.array(sizes, np.int64).reshape(-1, 2)
        self.boxes = np.array(boxes, np.float64).reshape(-1, 4)
        self.difficult = np.array(difficult, np.bool_)


class VocSource:
    """The images of ``VocAnnotations``.

    Args:
        annotations: What is in them.
        class_list: The classes.
        in_channels: 1 for greyscale, 3 for RGB.
        masks: Whether the objects' masks are wanted, from ``SegmentationObject``.

    Raises:
        UserError: An object of another class; names the file.
    """

    def __init__(self, annotations: VocAnnotations, class_list: ClassList, in_channels: int, *, masks: bool) -> None:
        self.root, self.names, self.files = annotations.root, annotations.names, annotations.files
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
        inside, kept = boxes_inside(annotations.boxes, self.sizes[owners])
        report_left_out(str(self.root), kept, [f"in {self.names[owner]}.xml" for owner in owners.tolist()])
        self._boxes = inside[kept].astype(np.float32)
        self._labels = np.array([labels[name] for name in annotations.classes], np.int64)[kept]
        self._difficult = annotations.difficult[kept]
        self._starts = np.searchsorted(owners[kept], np.arange(len(self.names) + 1))
        # Which of an image's objects these are: masks are numbered from 1 in the order of the file.
        first = np.searchsorted(owners, owners)
        self._numbers = (np.arange(len(owners)) - first + 1)[kept]

    def open(self, index: int) -> Picture:
        """Read one image.

        Raises:
            ImageError: It cannot be read, or has another size than the annotation says.
        """
        path = self.path(index)
        picture = open_picture(read_file(Path(path)), self.in_channels, path)
        height, width = self.sizes[index].tolist()
        if (picture.height, picture.width) != (height, width):
            raise ImageError(
                path, "damaged", f"has {picture.width} × {picture.height} pixels, and {width} × {height} in its XML"
            )
        return picture

    def objects(self, index: int) -> Objects:
        """What is in one image.

        Raises:
            UserError: Its masks are missing, of another size, or not one for each object.
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

    def path(self, index: int) -> str:
        """The image's path."""
        return f"{self.root}/JPEGImages/{self.files[index]}"

    @property
    def annotation_values(self) -> tuple[NDArray[Any], ...]:
        """All that the annotations say: image sizes, boxes, labels, which are difficult, where each image's begin."""
        return self.sizes, self._boxes, self._labels, self._difficult, self._starts

    def digests(self, files: FileDigests) -> dict[str, str]:
        """The names, all that the annotations say, the images, and the contents of the masks if they are wanted."""
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
    """The names of an image set, one a line; what follows a name on its line is left out.

    Raises:
        UserError: It is missing or empty.
    """
    try:
        names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected the names of a split's images") from error
    if not names:
        raise UserError(f"{path}: names no image")
    return names


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise ValueError(f"no <{path.replace('/', '><')}>")
    return text.strip()
