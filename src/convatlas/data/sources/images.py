"""Sources of labelled images: one folder per class, or arrays in memory."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.io import encode_png

from convatlas.data.class_list import ClassList
from convatlas.data.dataset import Dataset, ImageSource
from convatlas.data.digests import FileDigests
from convatlas.data.images.decode import IMAGE_SUFFIXES, Background, Picture, open_picture, read_file
from convatlas.data.sources.packed_names import Names
from convatlas.data.sources.scan import ImageScan, is_hidden, suffix_of
from convatlas.errors import UserError

Labels = NDArray[np.int64]


@runtime_checkable
class LabelledSource(ImageSource, Protocol):
    """A source of images with one class each."""

    labels: Labels

    def encoded(self, index: int) -> bytes:
        """Read the bytes of the stored file."""


ClassificationDataset = Dataset[LabelledSource]


class FolderSource:
    """The images ``root/<class>/**/<image>``, sorted by class and by name.

    Args:
        root: The folder of one split.
        class_list: The classes. Each class is a subfolder.
        in_channels: 1 for greyscale, 3 for RGB.
        scan_cache: The cache of the lists of files; see ``ImageScan``.

    Attributes:
        passed_over: Number of files in the folder that are not images, by suffix.

    Raises:
        UserError: A class has no folder or no images, or a folder is not a class.
    """

    background: Background = None

    def __init__(self, root: Path, class_list: ClassList, in_channels: int, scan_cache: str | None = None) -> None:
        self.root = root
        self.class_list = class_list
        self.in_channels = in_channels
        folders = set(class_folders(root))
        if strange := sorted(folders - set(class_list.names)):
            raise UserError(f"data.root: {root / strange[0]} is not one of the {len(class_list.names)} classes")
        scan = ImageScan(scan_cache)

        def images(name: str) -> list[bytes]:
            found = scan.images(root / name) if name in folders else []
            if not found:
                problem = "has no images" if name in folders else "is missing"
                raise UserError(
                    f"data.root: the class folder {root / name} {problem}; expected {', '.join(IMAGE_SUFFIXES)} files"
                )
            return found

        self.names = Names(map(images, class_list.names))
        self.passed_over = scan.passed_over
        self.labels: Labels = np.repeat(np.arange(len(self.names.counts)), self.names.counts)

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> Picture:
        """Read one image."""
        path = self.path(index)
        return open_picture(read_file(Path(path)), self.in_channels, path, self.background)

    def encoded(self, index: int) -> bytes:
        """Read the bytes of an image file."""
        return read_file(Path(self.path(index)))

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return f"{self.root}/{self.class_list.names[self.labels[index]]}/{os.fsdecode(self.names[index])}"

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute the digests of the names in each class, and of the images."""
        names = hashlib.sha256(self.names.digest() + self.names.counts.tobytes()).hexdigest()
        return {"names": names, **files.images(len(self.labels), self.path)}


class ArraySource:
    """Images in memory.

    Args:
        images: The images, (N, H, W) or (N, H, W, C) uint8.
        labels: The classes, (N,).
        name: The name of the images in messages.
    """

    background: Background = None

    def __init__(self, images: NDArray[np.uint8], labels: Sequence[int] | Labels, name: str) -> None:
        stacked = images[..., None] if images.ndim == 3 else images
        # Channels last in memory, like batches: the resize into a batch requires the same layout of both.
        self.images = torch.from_numpy(np.ascontiguousarray(stacked)).permute(0, 3, 1, 2)
        self.labels: Labels = np.asarray(labels, dtype=np.int64)
        self.name = name

    def __len__(self) -> int:
        return len(self.labels)

    def open(self, index: int) -> Picture:
        """Return one image."""
        return Picture.of(self.images[index], self.path(index))

    def encoded(self, index: int) -> bytes:
        """Encode an image as a PNG."""
        return bytes(encode_png(self.images[index]).numpy())

    def path(self, index: int) -> str:
        """Return the name of an image: the data set and the number of the image."""
        return f"{self.name}[{index}]"

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute the digests of the pixels and of the classes."""
        pixels = self.images.permute(0, 2, 3, 1).contiguous().numpy()
        digest = hashlib.sha256(f"{pixels.shape}".encode())
        digest.update(pixels.data)
        return {"image_contents": digest.hexdigest(), "labels": hashlib.sha256(self.labels.data).hexdigest()}


def files_outside_classes(root: Path) -> Counter[str]:
    """Count the files of a split outside the class folders, by suffix. Hidden files are left out."""
    names = [os.fsencode(path.name) for path in root.iterdir() if not path.is_dir()]
    return Counter(f"{suffix_of(name)} outside the class folders" for name in names if not is_hidden(name))


def class_folders(root: Path) -> list[str]:
    """Return the sorted names of the class folders of a split. Hidden folders are left out.

    Raises:
        UserError: The split's folder is missing, empty or cannot be read.
    """
    if not root.is_dir():
        raise UserError(f"data.root: {root} is missing; expected a folder with a folder for each class")
    try:
        folders = sorted(
            path.name for path in root.iterdir() if path.is_dir() and not is_hidden(os.fsencode(path.name))
        )
    except OSError as error:
        raise UserError(f"data.root: {root} cannot be read ({error.strerror})") from error
    if not folders:
        raise UserError(f"data.root: {root} is empty; expected a folder for each class")
    return folders
