"""Check every stored image before training: find images that would stop it and images with unusual properties."""

import hashlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from convatlas.data.images.decode import (
    FORMATS,
    PNG_BIT_DEPTH,
    ROTATED,
    SUFFIX_FORMATS,
    ImageError,
    alpha,
    decode,
    open_with_pillow,
)
from convatlas.data.images.decode import orientation as image_orientation
from convatlas.data.images.jpeg import damage_inside, open_jpeg
from convatlas.data.sources.images import LabelledSource

TIFF_BITS_PER_SAMPLE = 258
ALIASES = {"MPO": "JPEG"}
"""Formats that count as another one. MPO, which some cameras write, is a JPEG followed by a second image."""
PART = 16
"""Images per task of the thread pool. Submitting a task costs more time than decoding a small image."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: ``error`` if training would stop at the image, ``notice`` if it can use the image.
        title: The name of the kind.
        remark: A short explanation.
    """

    severity: Literal["error", "notice"]
    title: str
    remark: str


KINDS = {
    "unreadable": Kind("error", "Unreadable file", "it cannot be opened"),
    "empty": Kind("error", "Zero bytes", "there is nothing to decode"),
    "not_an_image": Kind("error", "Not an image", f"it is none of {', '.join(FORMATS)}"),
    "damaged": Kind("error", "Truncated or damaged", "the pixels are incomplete"),
    "bomb": Kind("error", "Decompression bomb", "it has more pixels than any photograph"),
    "32_bit": Kind("error", "32 bits a pixel", "the range of its values is unknown"),
    "damaged_inside": Kind("notice", "Damage inside", "decoded all the same, with wrong pixels somewhere"),
    "mislabelled": Kind("notice", "Extension of another format", "decoded by content, not by name"),
    "cmyk": Kind("notice", "CMYK", "converted to RGB without a colour profile"),
    "16_bit": Kind("notice", "16 bits a channel", "the upper 8 are kept"),
    "transparent": Kind("notice", "Transparent pixels", "data.background is the colour behind them"),
    "exif_rotated": Kind("notice", "EXIF orientation", "turned upright"),
    "contradiction": Kind("notice", "Equal images in several classes", "at most one label is right"),
    "leakage": Kind("notice", "Equal images in several splits", "what is tested was trained on"),
    "duplicate": Kind("notice", "Equal images in one split", "each copy counts"),
}
"""All kinds of findings. The last three count sets of equal images; the others count images."""


@dataclass(frozen=True, slots=True)
class ImageFinding:
    """A finding about one image.

    Attributes:
        index: Index of the image in its source.
        kind: A key of ``KINDS``.
        detail: The details, as text.
    """

    index: int
    kind: str
    detail: str


class Record:
    """Findings and properties of the images of a split. It takes 41 bytes per image.

    Args:
        num_images: Number of images.

    Attributes:
        file_digests: First half of the SHA-256 of each file, (N,) 16 bytes.
        pixel_digests: First half of the SHA-256 of the size and pixels of each decoded image, (N,) 16 bytes.
        heights: Height of each decoded image, (N,) uint32; 0 if it cannot be decoded.
        widths: Width of each decoded image, (N,) uint32; 0 if it cannot be decoded.
        grey: Whether all channels of the image are equal, (N,) bool.
        findings: The findings, in the order of the images.
    """

    def __init__(self, num_images: int) -> None:
        self.file_digests = np.zeros(num_images, "V16")
        self.pixel_digests = np.zeros(num_images, "V16")
        self.heights = np.zeros(num_images, np.uint32)
        self.widths = np.zeros(num_images, np.uint32)
        self.grey = np.zeros(num_images, np.bool_)
        self.findings: list[ImageFinding] = []

    @property
    def decodable(self) -> NDArray[np.bool_]:
        """Which images can be decoded, (N,)."""
        return self.widths > 0


def verify_source(source: LabelledSource, in_channels: int, threads: int, advance: Callable[[int], None]) -> Record:
    """Decode every image as training does. An image that cannot be decoded is recorded as a finding.

    Args:
        source: The images of a split.
        in_channels: 1 for greyscale, 3 for RGB.
        threads: Number of threads. The result does not depend on it.
        advance: Called with the number of images that were processed since the last call.
    """
    num_images = len(source.labels)
    record = Record(num_images)
    waiting: deque[tuple[int, Future[list[ImageFinding]]]] = deque()
    parts = (range(start, min(start + PART, num_images)) for start in range(0, num_images, PART))

    def verify(indices: range) -> list[ImageFinding]:
        return [finding for index in indices for finding in verify_image(source, index, in_channels, record)]

    torch.get_num_threads()  # fixes the caller's number of threads, as in the loader
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while True:
            while len(waiting) < 2 * threads and (indices := next(parts, None)) is not None:
                waiting.append((len(indices), pool.submit(verify, indices)))
            if not waiting:
                return record
            count, findings = waiting.popleft()
            record.findings += findings.result()
            advance(count)


def verify_image(source: LabelledSource, index: int, in_channels: int, record: Record) -> list[ImageFinding]:
    """Decode one image, check its header, enter its properties into the record, and return its findings."""
    name = source.path(index)
    try:
        encoded = source.encoded(index)
        pixels = (
            decode(encoded, in_channels, name, source.background).permute(1, 2, 0).contiguous().numpy()
        )  # (H, W, C)
    except ImageError as error:
        return [ImageFinding(index, error.fault, error.reason)]
    height, width, channels = pixels.shape
    digest = hashlib.sha256(f"{height} {width} ".encode())
    digest.update(pixels.data)
    record.file_digests[index] = np.void(hashlib.sha256(encoded).digest()[:16])
    record.pixel_digests[index] = np.void(digest.digest()[:16])
    record.heights[index], record.widths[index] = height, width
    record.grey[index] = all(np.array_equal(pixels[..., 0], pixels[..., channel]) for channel in range(1, channels))
    return [ImageFinding(index, kind, detail) for kind, detail in content_findings(encoded, name)]


def content_findings(encoded: bytes, name: str) -> list[tuple[str, str]]:
    """Find unusual properties of an image that training can use.

    A JPEG that training decodes without Pillow is also checked without Pillow, because Pillow refuses the headers of
    some of these files.

    Args:
        encoded: The bytes of an image that can be decoded.
        name: The name of the image, which may end in the suffix of a format.

    Returns:
        Pairs of a key of ``KINDS`` and a detail.
    """
    found = []
    if (jpeg := open_jpeg(encoded, in_channels=3)) is not None:
        content, orientation = "JPEG", jpeg.orientation
        if (damage := damage_inside(encoded)) is not None:
            found.append(("damaged_inside", damage))
    else:
        image = open_with_pillow(encoded)
        content, orientation = ALIASES.get(str(image.format), str(image.format)), image_orientation(image)
        bits = _bits(image, encoded)
        image.load()
        if orientation not in ROTATED and content == "PNG":
            orientation = image_orientation(image)
        if image.mode == "CMYK":
            found.append(("cmyk", content))
        if bits > 8:
            found.append(("16_bit", f"{bits} bits a channel"))
        if (opacity := alpha(image, encoded)) is not None and (share := (np.asarray(opacity) < 255).mean()):
            found.append(("transparent", f"{share:.1%} of the pixels are not opaque"))
    suffix = PurePath(name).suffix
    if content != SUFFIX_FORMATS.get(suffix.lower(), content):
        found.append(("mislabelled", f"{content} named {suffix}"))
    if orientation in ROTATED:
        found.append(("exif_rotated", f"orientation {orientation}"))
    return found


def _bits(image: ImageFile.ImageFile, encoded: bytes) -> int:
    """Read the bits per channel from the file format: Pillow's mode is ``RGB`` for 8 and for 16 bits."""
    if image.format == "PNG":
        return encoded[PNG_BIT_DEPTH]
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (1,))))
    if image.format == "PPM":
        arguments = image.tile[0][3]
        return 16 if image.mode == "I" or (isinstance(arguments, tuple) and arguments[-1] > 255) else 8
    return 8
