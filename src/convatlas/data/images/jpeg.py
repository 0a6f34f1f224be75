"""JPEG files decoded no further than a crop needs: the rows below it are left out, large ones come reduced.

Both happen inside libjpeg-turbo, which spends most of a loader's time: on undoing the entropy code row by row from the
top, and on the inverse transform, which yields a half, a quarter or an eighth of the size for less than the whole.
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
"""Those whose rows are stored from the top to the bottom."""
PROGRESSIVE = 0xC2
SAMPLINGS = {0x11, 0x21, 0x22, 0x12, 0x41, 0x14}
"""How much finer brightness may be stored than colour (horizontally, vertically: a digit each) for TurboJPEG."""
SCAN, EXIF = 0xDA, 0xE1
ORIENTATION = 0x0112
ROWS_BELOW = 2
"""The colour of a row is interpolated between rows above and below it, so as many more are decoded."""
REDUCED_TO = 2
"""A reduced image keeps this many pixels for each that the crop is resized to: the resize decides how it looks."""


@dataclass(frozen=True)
class JpegPicture:
    """A JPEG whose header is read and whose pixels are decoded on demand.

    Attributes:
        encoded: The file's bytes.
        in_channels: 1 for greyscale, 3 for RGB.
        height: Height in pixels, as stored.
        width: Width in pixels, as stored.
        orientation: EXIF orientation, 1 (upright) to 8.
        frame: Where the frame header stores the height.
        sequential: Whether rows are stored from the top to the bottom.
    """

    encoded: bytes
    in_channels: int
    height: int
    width: int
    orientation: int
    frame: int
    sequential: bool

    def pixels(self) -> Tensor:
        """The whole image, (C, H, W) uint8, as it is stored.

        Raises:
            ValueError: The data are damaged.
        """
        return self._decode(self.encoded)

    def region(self, top: int, left: int, height: int, width: int, size: int) -> Tensor:
        """A part of the image, (C, h, w) uint8: reduced in size where that leaves plenty for ``size`` pixels a side.

        Args:
            top: First row.
            left: First column.
            height: Number of rows.
            width: Number of columns.
            size: What the caller resizes the part to, in pixels.

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
        # Outwards to whole pixels of the reduced image: less than half a pixel of the result.
        rows = slice(top // factor, -(-bottom // factor))
        columns = slice(left // factor, -(-(left + width) // factor))
        return pixels[:, rows, columns]

    def _decode(self, encoded: bytes | bytearray, factor: int = 1) -> Tensor:
        colorspace = "RGB" if self.in_channels == 3 else "GRAY"
        reduced = {} if factor == 1 else {"min_factor": factor, "min_width": -(-self.width // factor)}
        # Not strict: what follows the last row that is asked for counts as damage.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(encoded, colorspace, strict=False, **reduced)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def open_jpeg(encoded: bytes, in_channels: int) -> JpegPicture | None:
    """Read the header of a complete greyscale or RGB JPEG; None for any other, which Pillow knows better.

    A truncated file would decode with grey in place of what is missing; it lacks the end marker.
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
    """Whether TurboJPEG decodes such a frame: 8 bits, grey, or three components of which the others are alike."""
    if len(frame) < 6:
        return False
    bits, height, width, components = struct.unpack_from(">BHHB", frame)
    samplings = frame[7::3]
    if bits != 8 or not height or not width or len(samplings) != components:
        return False
    return components == 1 or (components == 3 and samplings[0] in SAMPLINGS and samplings[1:] == b"\x11\x11")


def damage_inside(encoded: bytes) -> str | None:
    """What the decoder remarks on a JPEG that it decodes all the same, with wrong pixels somewhere."""
    try:
        simplejpeg.decode_jpeg(encoded, "GRAY", strict=True)
    except ValueError as error:
        return str(error)
    return None


def exif_orientation(segment: bytes) -> int:
    """The orientation in EXIF data, 1 (upright) to 8; whatever is damaged leaves the pixels as they are stored."""
    exif = Image.Exif()
    try:
        exif.load(segment)
        return int(exif.get(ORIENTATION, 1))
    except Exception:  # what damaged data lead Pillow's parser to
        return 1
