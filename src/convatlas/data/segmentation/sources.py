"""Where images with the class of every pixel come from: pairs of files, or scenes made on demand."""

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
"""Lossless ones: a JPEG changes the labels."""


class MaskSource(ImageSource, Protocol):
    """Images that have a mask each."""

    def mask(self, index: int) -> Tensor:
        """Read the class of each pixel of an image, (H, W) uint8, or ``IGNORE_INDEX``."""

    def count_pixels(self, indices: NDArray[np.int64], threads: int, *, skip: bool) -> Pixels | None:
        """Count the pixels of each class and of ``IGNORE_INDEX`` in some masks; None if masks are made, not read."""

    def stored_values(self, indices: NDArray[np.int64]) -> list[int]:
        """List the values that some of the masks hold."""


SegmentationDataset = Dataset[MaskSource]


class MaskFiles:
    """Pairs of an image file and a mask file.

    Args:
        pairs: The paths of each image and its mask.
        root: The folder of the data set.
        num_classes: Classes that masks may hold.
        in_channels: 1 for greyscale, 3 for RGB.
        values: The value in the masks of each class, in order, other values being void; None where class k is k.
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
            threads: How many are read at once.
            skip: Leave out masks that cannot be used.

        Raises:
            ImageError: A mask cannot be used, unless such are left out.
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
        """The values in the files of some of the masks; those that cannot be read are left out."""
        found: set[int] = set()
        for index in indices:
            with contextlib.suppress(ImageError):
                found.update(np.unique(read_mask(self.pairs[index][1])).tolist())
        return sorted(found)

    def path(self, index: int) -> str:
        """The image's path."""
        return str(self.pairs[index][0])

    def digests(self, files: FileDigests) -> dict[str, str]:
        """The names, the images, and the contents of the masks."""
        folder = f"{self.root}/"
        return {
            "names": text_digest(str(path).removeprefix(folder) for pair in self.pairs for path in pair),
            **files.images(len(self.pairs), self.path),
            "masks": files.contents(len(self.pairs), lambda index: str(self.pairs[index][1]), "masks"),
        }


class ShapeScenes:
    """Scenes of shapes, made at first use and then kept.

    Args:
        seed: Of the data set.
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
        """One image."""
        return Picture.of(self._scene(index)[0], self.path(index))

    def mask(self, index: int) -> Tensor:
        """One mask: the background, the shapes, and void around them."""
        return self._scene(index)[1]

    def count_pixels(self, indices: NDArray[np.int64], threads: int, *, skip: bool) -> None:
        """Return None, since scenes have all classes."""

    def stored_values(self, indices: NDArray[np.int64]) -> list[int]:
        """The classes and ``IGNORE_INDEX``."""
        return [*range(len(CLASSES) + 1), IGNORE_INDEX]

    def path(self, index: int) -> str:
        """The data set and the number of the scene."""
        return f"shapes[{self.first + index}]"

    @property
    def description(self) -> str:
        """The parameters that determine the scenes."""
        return f"shapes {CLASSES} {self.seed} {self.first} {self.count} {self.size}"

    def digests(self, files: FileDigests) -> dict[str, str]:
        """The parameters that determine the scenes."""
        return {"scenes": text_digest([self.description])}

    def _scene(self, index: int) -> tuple[Tensor, Tensor]:
        if index not in self._made:
            shown = scene(self.seed, self.first + index, (self.size, self.size))
            image = Image.fromarray(shown.image).convert("L" if self.in_channels == 1 else "RGB")
            pixels = torch.from_numpy(np.array(image)).view(self.size, self.size, -1).permute(2, 0, 1)
            self._made[index] = pixels, torch.from_numpy(shown.semantic())
        return self._made[index]


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read the values of a mask: the indices of a palette, or grey values. Its own EXIF orientation is applied.

    Raises:
        ImageError: It cannot be read, is in colour, or is a JPEG.
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
    except Exception as error:  # whatever damaged bytes lead the decoders to
        raise ImageError(str(path), "damaged", f"truncated or damaged mask ({type(error).__name__})") from error
    if values.max(initial=0) > IGNORE_INDEX:
        raise ImageError(str(path), "mask", f"holds {values.max()}; expected values up to {IGNORE_INDEX}")
    classes: NDArray[np.uint8] = upright(torch.from_numpy(values.astype(np.uint8)), turned).numpy()
    return classes
