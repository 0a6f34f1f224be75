"""Decode JPEG files only as far as a crop needs.

libjpeg-turbo takes most of a loader's time. Two of its properties save part of it. It decodes the entropy code row by
row from the top, so that the rows below a crop need not be decoded. Its inverse transform computes an image of a half,
a quarter or an eighth of the height and width in less time than the whole image, which suffices for a large crop.
"""

import struct
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

START, END = b"\xff\xd8", b"\xff\xd9"
STANDALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a segment."""
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Start-of-frame markers."""
SEQUENTIAL = {0xC0, 0xC1}
"""Start-of-frame markers of sequential JPEGs, whose rows are stored from top to bottom."""
PROGRESSIVE = 0xC2
SAMPLINGS = {0x11, 0x21, 0x22, 0x12, 0x41, 0x14}
"""Chroma subsamplings that TurboJPEG decodes: one digit for the horizontal factor, one for the vertical factor."""
SCAN, EXIF = 0xDA, 0xE1
ORIENTATION = 0x0112
ROWS_BELOW = 2
"""Additional rows to decode below a crop, because chroma is interpolated between neighbouring rows."""
REDUCED_TO = 2
"""Minimum ratio of the side of a reduced crop to its side after resizing, so that the resize determines the quality."""


@dataclass(frozen=True)
class JpegPicture:
    """A JPEG whose header has been read and whose pixels are decoded on demand.

    Attributes:
        encoded: The bytes of the file.
        in_channels: 1 for greyscale, 3 for RGB.
        height: Height in pixels, as stored.
        width: Width in pixels, as stored.
        orientation: EXIF orientation, 1 (upright) to 8.
        frame: Offset of the height in the file.
        sequential: Whether rows are stored from top to bottom.
    """

    encoded: bytes
    in_channels: int
    height: int
    width: int
    orientation: int
    frame: int
    sequential: bool

    def pixels(self) -> Tensor:
        """Decode the whole image to (C, H, W) uint8, without applying the orientation.

        Raises:
            ValueError: The data are damaged.
        """
        return self._decode(self.encoded)

    def region(self, top: int, left: int, height: int, width: int, size: int) -> Tensor:
        """Decode a region of the image to (C, h, w) uint8, at a reduced size if it is much larger than ``size``.

        Args:
            top: First row.
            left: First column.
            height: Number of rows.
            width: Number of columns.
            size: Side to which the caller resizes the region, in pixels.

        Raises:
            ValueError: The data are damaged.
        """
        factor = next((f for f in (8, 4, 2) if min(height, width) >= f * REDUCED_TO * size), 1)
        bottom = top + height
        encoded: bytes | bytearray = self.encoded
        if self.sequential and bottom + ROWS_BELOW * factor < self.height:
            encoded = bytearray(encoded)
            encoded[self.frame : self.frame + 2] = (bottom + ROWS_BELOW * factor).to_bytes(2, "big")
        pixels = self._decode(encoded, factor)
        # Round outwards to whole pixels of the reduced image: the error is below half a pixel of the result.
        rows = slice(top // factor, -(-bottom // factor))
        columns = slice(left // factor, -(-(left + width) // factor))
        return pixels[:, rows, columns]

    def _decode(self, encoded: bytes | bytearray, factor: int = 1) -> Tensor:
        colorspace = "RGB" if self.in_channels == 3 else "GRAY"
        reduced = {} if factor == 1 else {"min_factor": factor, "min_width": -(-self.width // factor)}
        # Not strict, because the decoder regards the data after the last requested row as damage.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, colorspace, strict=False, **reduced)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def open_jpeg(encoded: bytes, in_channels: int) -> JpegPicture | None:
    """Read the header of a complete greyscale or RGB JPEG; None for any other file, which Pillow decodes.

    A truncated file lacks the end marker and gives None. TurboJPEG would decode its missing part as grey.
    """
    if not encoded.startswith(START) or not encoded.rstrip(b"\0").endswith(END):
        return None
    orientation, frame, sequential, position = 1, 0, False, 2
    while position + 4 <= len(encoded) and encoded[position] == 0xFF:
        marker = encoded[position + 1]
        if marker == 0xFF or marker in STANDALONE:  # a fill byte, or a marker without a segment
            position += 1 if marker == 0xFF else 2
            continue
        start, position = position + 4, position + 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker == EXIF and encoded.startswith(b"Exif\0\0", start):
            orientation = exif_orientation(encoded[start:position])
        elif marker in FRAMES:
            if marker not in SEQUENTIAL | {PROGRESSIVE} or not _is_plain(encoded[start:position]):
                return None
            frame, sequential = start + 1, marker in SEQUENTIAL
        elif marker == SCAN:
            if not frame:
                return None
            height, width = struct.unpack_from(">HH", encoded, frame)
            return JpegPicture(encoded, in_channels, height, width, orientation, frame, sequential)
    return None


def _is_plain(frame: bytes) -> bool:
    """Check whether TurboJPEG decodes a frame: 8 bits, and either greyscale or a known chroma subsampling."""
    if len(frame) < 6:
        return False
    bits, height, width, components = struct.unpack_from(">BHHB", frame)
    samplings = frame[7::3]
    if bits != 8 or not height or not width or len(samplings) != components:
        return False
    return components == 1 or (components == 3 and samplings[0] in SAMPLINGS and samplings[1:] == b"\x11\x11")


def damage_inside(encoded: bytes) -> str | None:
    """Return the warning of the decoder about a JPEG that it decodes with some wrong pixels; None without warning."""
    try:
        simplejpeg.decode_jpeg(encoded, "GRAY", strict=True)
    except ValueError as error:
        return str(error)
    return None


def exif_orientation(segment: bytes) -> int:
    """Read the orientation from EXIF data, 1 (upright) to 8; 1 if the data are damaged."""
    exif = Image.Exif()
    try:
        exif.load(segment)
        return int(exif.get(ORIENTATION, 1))
    except Exception:  # damaged data may raise anything in Pillow's parser
        return 1
