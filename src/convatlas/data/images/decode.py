"""Decode images to tensors. Errors name the image."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from torch import Tensor

from convatlas.data.images.jpeg import ORIENTATION, START, JpegPicture, exif_orientation, open_jpeg
from convatlas.errors import UserError

SUFFIX_FORMATS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".webp": "WEBP",
    ".bmp": "BMP",
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    ".gif": "GIF",
}
"""The format of each file suffix in lower case.

These are all suffixes that Pillow has for ``FORMATS``, except .pfm, whose pixels have 32 bits.
"""
IMAGE_SUFFIXES = tuple(SUFFIX_FORMATS)
"""Suffixes of image files, in lower case."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""The formats that Pillow may try, frequent ones first. Other formats are excluded because some start programs."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Maximum number of pixels, 179 million. Above it, Pillow refuses an image as a decompression bomb."""


PNG_BIT_DEPTH = 24
"""Offset of the bit depth in a PNG file. It is part of IHDR, the first chunk."""
RAW_PROFILES = ("Raw profile type exif", "Raw profile type APP1")
"""Text chunks of a PNG with EXIF data as hexadecimal digits. ImageMagick writes them."""
Background = Sequence[int] | None
"""The colour behind transparent pixels, 0 to 255 in each channel. None ignores the alpha channel."""

ROTATED = range(2, 9)
"""EXIF orientations that are not upright."""

ImageFault = Literal["unreadable", "empty", "not_an_image", "bomb", "damaged", "32_bit", "mask"]


class ImageError(UserError):
    """An image that cannot be decoded.

    Args:
        name: The image's name.
        fault: The kind of error, for programs.
        reason: The error message without the name.
    """

    def __init__(self, name: str, fault: ImageFault, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.fault = fault
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """One upright image whose pixels are decoded on demand.

    Attributes:
        name: The name of the image in messages.
        height: Height in pixels.
        width: Width in pixels.
        stored: A JPEG that is stored upright, or pixels (C, H, W) uint8.
    """

    name: str
    height: int
    width: int
    stored: JpegPicture | Tensor

    @classmethod
    def of(cls, pixels: Tensor, name: str) -> "Picture":
        """Wrap a decoded image, (C, H, W) uint8."""
        return cls(name, pixels.shape[-2], pixels.shape[-1], pixels)

    def pixels(self) -> Tensor:
        """Decode the whole image to (C, H, W) uint8.

        Raises:
            ImageError: The data are damaged. The message names the image.
        """
        if isinstance(self.stored, Tensor):
            return self.stored
        with _named(self.name):
            return self.stored.pixels()

    def region(self, top: int, left: int, height: int, width: int, size: int) -> Tensor:
        """Decode a region of the image to (C, h, w) uint8, for resizing to ``size`` pixels a side.

        The result has ``height`` x ``width`` pixels. If the region of a JPEG is much larger than ``size``, the JPEG is
        decoded at a half, a quarter or an eighth of its height and width.

        Raises:
            ImageError: The data are damaged. The message names the image.
        """
        if isinstance(self.stored, Tensor):
            return self.stored[:, top : top + height, left : left + width]
        with _named(self.name):
            return self.stored.region(top, left, height, width, size)


def open_picture(encoded: bytes, in_channels: int, name: str, background: Background = None) -> Picture:
    """Open an image. The format is detected from the content; the suffix of the name is ignored.

    Greyscale, CMYK, palette and 16-bit images are converted, and the EXIF orientation is applied.

    Args:
        encoded: The file's bytes.
        in_channels: 1 for greyscale, 3 for RGB.
        name: The image's name, for messages.
        background: The colour behind transparent pixels. None ignores the alpha channel.

    Raises:
        ImageError: The file is empty, truncated, too large, or not an image.
    """
    if not encoded:
        raise ImageError(name, "empty", "an empty file; expected an image")
    with _named(name):
        jpeg = open_jpeg(encoded, in_channels)
        if jpeg is None:
            pixels = _with_pillow(encoded, "L" if in_channels == 1 else "RGB", name, background)
            return Picture.of(pixels, name)
        if jpeg.height * jpeg.width > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{jpeg.height} x {jpeg.width} pixels could be a decompression bomb")
        if jpeg.orientation in ROTATED:
            return Picture.of(upright(jpeg.pixels(), jpeg.orientation), name)
        return Picture(name, jpeg.height, jpeg.width, jpeg)


def decode(encoded: bytes, in_channels: int, name: str, background: Background = None) -> Tensor:
    """Decode an image to (C, H, W) uint8, as ``open_picture(…).pixels()``."""
    return open_picture(encoded, in_channels, name, background).pixels()


def read_file(path: Path) -> bytes:
    """Read an image file.

    Raises:
        ImageError: The file cannot be read. The message names it.
    """
    try:
        with path.open("rb", buffering=0) as file:  # a quarter faster than read_bytes
            return file.read()
    except OSError as error:
        raise ImageError(str(path), "unreadable", f"cannot be read ({error.strerror})") from error


def decode_file(path: Path, in_channels: int, background: Background = None) -> Tensor:
    """Read and decode an image file to (C, H, W) uint8.

    Raises:
        ImageError: The file cannot be read or decoded. The message names it.
    """
    return decode(read_file(path), in_channels, str(path), background)


def open_with_pillow(encoded: bytes) -> ImageFile:
    """Read the header of an image in one of ``FORMATS``. Images with more than ``MAX_PIXELS`` are refused."""
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    image.info.pop("xmp", None)  # Pillow would apply its orientation, only to a TIFF
    return image


def alpha(image: Image.Image, encoded: bytes) -> Image.Image | None:
    """Return the opacity of each pixel, 0 to 255 in mode ``L``; None if the image has no transparency.

    Args:
        image: The image as Pillow loaded it.
        encoded: The bytes of the file.
    """
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A")
    key = image.info.get("transparency")  # a colour; for a palette, an index or the opacity of each entry
    if key is None:
        return None
    if image.mode.startswith("I"):
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    if image.format == "PNG" and image.mode in ("L", "RGB"):  # Pillow scales the pixels to 8 bits, but not the key
        depth = encoded[PNG_BIT_DEPTH]
        values = [key] if image.mode == "L" else key
        largest = 2**depth - 1
        values = [value >> 8 if depth == 16 else (value & largest) * 255 // largest for value in values]
        image = image.copy()
        image.info["transparency"] = values[0] if image.mode == "L" else tuple(values)
    return image.convert("RGBA").getchannel("A")


def is_transparent(encoded: bytes) -> bool:
    """Check whether any pixel of a decodable image is not fully opaque."""
    if encoded.startswith(START):  # a JPEG
        return False
    image = open_with_pillow(encoded)
    image.load()
    opacity = alpha(image, encoded)
    return opacity is not None and bool(np.asarray(opacity).min() < 255)


def _with_pillow(encoded: bytes, mode: str, name: str, background: Background) -> Tensor:
    # PNGs are decoded here too, because a damaged one crashes the process in decode_png of torchvision 0.29.
    image: Image.Image = open_with_pillow(encoded)
    image.load()
    turned = orientation(image)
    opacity = None if background is None else alpha(image, encoded)
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise ImageError(name, "32_bit", "32 bits a pixel; expected 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16 bits: keep the upper eight
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode != mode:
        image = image.convert(mode)
    if background is not None and opacity is not None:
        colour = tuple(background) if mode == "RGB" else background[0]
        image = Image.composite(image, Image.new(mode, image.size, colour), opacity)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return upright(pixels.view(image.height, image.width, -1).permute(2, 0, 1), turned)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of the pixels of an image, 1 (upright) to 8. XMP is ignored, as in torchvision.

    Pillow applies the orientation of a TIFF itself when it loads the image. A PNG must be loaded before this call,
    because its EXIF data may follow its pixels.
    """
    if image.format == "TIFF":  # its own tags
        return int(image.getexif().get(ORIENTATION, 1))
    if "exif" in image.info:
        return exif_orientation(image.info["exif"])
    profiles = (_raw_profile(image.info[key]) for key in RAW_PROFILES if key in image.info)
    return next((exif_orientation(profile) for profile in profiles), 1)


def _raw_profile(text: str) -> bytes:
    """Decode the data in a text chunk of a PNG, which has a name, a length and hexadecimal digits on separate lines."""
    try:
        return bytes.fromhex("".join(text.split()[2:]))
    except ValueError:
        return b""


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """Undo an EXIF orientation (Exif 2.3, section 4.6.4, tag 0x0112): (…, H, W) to (…, H, W) or (…, W, H)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(-1, -2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels.flip(-1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels.flip(-2)
    return pixels


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Convert any exception in the block to an ``ImageError`` that names the image."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(name, "not_an_image", f"not an image; expected one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, "bomb", str(error)) from error
    except Exception as error:  # damaged bytes may raise anything in the decoders
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, "damaged", f"truncated or damaged image ({reason})") from error
