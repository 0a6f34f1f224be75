"""Sources of images with masks: pairs of files, or generated scenes."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from convatlas.data.batch import IGNORE_INDEX
from convatlas.data.dataset import Dataset, ImageSource
from convatlas.data.digests import FileDigests, text_digest
from convatlas.data.images.decode import Background, ImageError, Picture, open_picture, orientation, read_file, upright
from convatlas.data.segmentation.counts import VALUES, Pixels, count_pixels
from convatlas.data.sources.shapes import CLASSES, scene

MASK_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
"""Formats of mask files. They are lossless; a JPEG would change labels."""


class MaskSource(ImageSource, Protocol):
    """A source of images with one mask each."""

    def mask(self, index: int) -> Tensor:
        """Read the mask of an image: the class of each pixel or ``IGNORE_INDEX``, (H, W) uint8."""

    def count_pixels(self, indices: NDArray[np.int64], threads: int, *, skip: bool) -> Pixels | None:
        """Count the pixels of each class and of ``IGNORE_INDEX`` in some masks; None for generated masks."""

    def stored_values(self, indices: NDArray[np.int64]) -> list[int]:
        """List the values that occur in the files of some masks."""


SegmentationDataset = Dataset[MaskSource]


class MaskFiles:
    """Pairs of an image file and a mask file.

    Args:
        pairs: The paths of each image and its mask.
        root: The folder of the data set.
        num_classes: Number of classes.
        in_channels: 1 for greyscale, 3 for RGB.
        values: The value of each class in the mask files, in order; other values become ``IGNORE_INDEX``. None: the
            value of class k is k.
    """

    background: Background = None

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        root: Path,
        num_classes: int,
        in_channels: int,
        values: Sequence[int] | None = None,
    ) -> None:
        self.pairs = pairs
        self.root = root
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.classes: NDArray[np.uint8] | None = None
        if values is not None:
            self.classes = np.full(VALUES, IGNORE_INDEX, np.uint8)
            self.classes[list(values)] = np.arange(len(values))

    def __len__(self) -> int:
        return len(self.pairs)

    def open(self, index: int) -> Picture:
        """Read one image."""
        path = self.pairs[index][0]
        return open_picture(read_file(path), self.in_channels, str(path), self.background)

    def mask(self, index: int) -> Tensor:
        """Read one mask."""
        path = self.pairs[index][1]
        values = read_mask(path)
        classes = values if self.classes is None else self.classes[values]
        strange = np.flatnonzero(np.bincount(classes.ravel(), minlength=IGNORE_INDEX)[self.num_classes : IGNORE_INDEX])
        if len(strange):
            raise ImageError(
                str(path),
                "mask",
                f"holds class {self.num_classes + strange[0]}; expected 0 to {self.num_classes - 1}, or {IGNORE_INDEX} "
                "for none (data.dataset.values says which values stand for the classes)",
            )
        return torch.from_numpy(classes)

    def count_pixels(self, indices: NDArray[np.int64], threads: int, *, skip: bool) -> Pixels:
        """Count the pixels of each class and of ``IGNORE_INDEX`` in some of the masks, or recall an earlier count.

        Args:
            indices: Positions of the masks.
            threads: Number of masks that are read at once.
            skip: Whether to leave out masks that cannot be used.

        Raises:
            ImageError: A mask cannot be used, and ``skip`` is false.
        """
        table = None if self.classes is None else self.classes.tolist()
        return count_pixels(
            [self.pairs[index][1] for index in indices],
            lambda position: self.mask(int(indices[position])).numpy(),
            f"{self.num_classes} {table}",
            threads,
            skip=skip,
        )

    def stored_values(self, indices: NDArray[np.int64]) -> list[int]:
        """List the values that occur in the files of some masks. Files that cannot be read are left out."""
        found: set[int] = set()
        for index in indices:
            with contextlib.suppress(ImageError):
                found.update(np.unique(read_mask(self.pairs[index][1])).tolist())
        return sorted(found)

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.pairs[index][0])

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute the digests of the names, of the images, and of the content of the masks."""
        folder = f"{self.root}/"
        return {
            "names": text_digest(str(path).removeprefix(folder) for pair in self.pairs for path in pair),
            **files.images(len(self.pairs), self.path),
            "masks": files.contents(len(self.pairs), lambda index: str(self.pairs[index][1]), "masks"),
        }


class ShapeScenes:
    """Scenes of shapes, which are generated at first use and then kept in memory.

    Args:
        seed: Seed of the data set.
        first: Number of the first scene.
        count: Number of scenes.
        size: Height and width in pixels.
        in_channels: 1 for greyscale, 3 for RGB.
    """

    background: Background = None

    def __init__(self, seed: int, first: int, count: int, size: int, in_channels: int) -> None:
        self.seed, self.first, self.count, self.size = seed, first, count, size
        self.in_channels = in_channels
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return self.count

    def open(self, index: int) -> Picture:
        """Return one image."""
        return Picture.of(self._scene(index)[0], self.path(index))

    def mask(self, index: int) -> Tensor:
        """Return one mask: background, shapes, and ``IGNORE_INDEX`` around the shapes."""
        return self._scene(index)[1]

    def count_pixels(self, indices: NDArray[np.int64], threads: int, *, skip: bool) -> None:
        """Return None, because all classes occur in the scenes."""

    def stored_values(self, indices: NDArray[np.int64]) -> list[int]:
        """List the classes and ``IGNORE_INDEX``."""
        return [*range(len(CLASSES) + 1), IGNORE_INDEX]

    def path(self, index: int) -> str:
        """Return the name of a scene: the data set and the number of the scene."""
        return f"shapes[{self.first + index}]"

    @property
    def description(self) -> str:
        """The parameters that determine the scenes."""
        return f"shapes {CLASSES} {self.seed} {self.first} {self.count} {self.size}"

    def digests(self, files: FileDigests) -> dict[str, str]:
        """Compute the digest of the parameters that determine the scenes."""
        return {"scenes": text_digest([self.description])}

    def _scene(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self._made:
            shown = scene(self.seed, self.first + index, (self.size, self.size))
            image = Image.fromarray(shown.image).convert("L" if self.in_channels == 1 else "RGB")
            pixels = torch.from_numpy(np.array(image)).view(self.size, self.size, -1).permute(2, 0, 1)
            self._made[index] = pixels, torch.from_numpy(shown.semantic())
        return self._made[index]


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read the values of a mask file: palette indices or grey values. The EXIF orientation of the mask is applied.

    Raises:
        ImageError: The file cannot be read, is damaged, is in colour, is not in one of ``MASK_FORMATS``, or has a value
            above ``IGNORE_INDEX``.
    """
    content = read_file(path)
    try:
        with Image.open(io.BytesIO(content), formats=MASK_FORMATS) as image:
            if image.mode not in ("P", "L", "1", "I;16", "I"):
                raise ImageError(str(path), "mask", f"a mask in {image.mode}; expected a palette or grey values")
            values = np.array(image)
            turned = orientation(image)
    except UnidentifiedImageError as error:
        raise ImageError(str(path), "mask", f"expected a mask in one of {', '.join(MASK_FORMATS)}") from error
    except ImageError:
        raise
    except Exception as error:  # damaged bytes may raise anything in the decoders
        raise ImageError(str(path), "damaged", f"truncated or damaged mask ({type(error).__name__})") from error
    if values.max(initial=0) > IGNORE_INDEX:
        raise ImageError(str(path), "mask", f"holds {values.max()}; expected values up to {IGNORE_INDEX}")
    classes: NDArray[np.uint8] = upright(torch.from_numpy(values.astype(np.uint8)), turned).numpy()
    return classes
