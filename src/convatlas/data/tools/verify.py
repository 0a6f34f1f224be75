"""Look at every stored image before training does: what would stop it, and what is odd but can be used."""

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
"""A photograph with a second picture behind it, as some cameras write, is a JPEG to everyone."""
PART = 16
"""Images a task: a task each costs more than decoding a small image."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        severity: Training would stop at an error; it copes with a notice.
        title: What it is called.
        remark: What it means.
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
"""What can be found; of the last three, sets of images are counted, of the others images."""


@dataclass(frozen=True, slots=True)
class ImageFinding:
    """Something about one image.

    Attributes:
        index: The image, as its source counts.
        kind: A key of ``KINDS``.
        detail: What exactly.
    """

    index: int
    kind: str
    detail: str


class Record:
    """Findings and properties of the images of a split; takes 41 bytes per image.

    Args:
        num_images: How many there are.

    Attributes:
        file_digests: First half of the SHA-256 of each file, (N,) 16 bytes.
        pixel_digests: The same of each decoded image's pixels and size, (N,) 16 bytes.
        heights: Of the decoded image, (N,) uint32; 0 where it cannot be decoded.
        widths: Of the decoded image, (N,) uint32; 0 where it cannot be decoded.
        grey: Whether all channels of the image are equal, (N,) bool.
        findings: In the order of the images.
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
    """Decode every image as training does; a bad one is a finding and stops nothing.

    Args:
        source: The images of a split.
        in_channels: 1 for greyscale, 3 for RGB.
        threads: How many work at it; the result is the same for any number.
        advance: Told how many images were done since it was called last.
    """
    num_images = len(source.labels)
    record = Record(num_images)
    waiting: deque[tuple[int, Future[list[ImageFinding]]]] = deque()
    parts = (range(start, min(start + PART, num_images)) for start in range(0, num_images, PART))

    def verify(indices: range) -> list[ImageFinding]:
        return [finding for index in indices for finding in verify_image(source, index, in_channels, record)]

    torch.get_num_threads()  # settles the caller's own number, as in the loader
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
    """Decode one image and look at its header; enters it into the record and returns what is to be told."""
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
    """Say what training copes with in an image: pairs of a key of ``KINDS`` and what exactly.

    What training reads without Pillow is judged without it too: Pillow refuses some headers of JPEGs that it decodes.

    Args:
        encoded: The bytes of an image that can be decoded.
        name: Its name, which may end in a format's extension.
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
    """Bits a channel; Pillow calls colour images of 16 bits ``RGB`` too, so the formats that have them are asked."""
    if image.format == "PNG":
        return encoded[PNG_BIT_DEPTH]
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(TIFF_BITS_PER_SAMPLE, (1,))))
    if image.format == "PPM":
        arguments = image.tile[0][3]
        return 16 if image.mode == "I" or (isinstance(arguments, tuple) and arguments[-1] > 255) else 8
    return 8
