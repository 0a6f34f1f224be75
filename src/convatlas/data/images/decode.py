"""Decode images to tensors; errors name the image."""

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
"""The format that a file's suffix stands for, in lower case: all that Pillow knows of ``FORMATS``, besides .pfm, whose
pixels have 32 bits."""
IMAGE_SUFFIXES = tuple(SUFFIX_FORMATS)
"""Suffixes of image files, in lower case."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""What Pillow may try, the frequent first: some of the formats that it knows start other programs."""
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)
"""Where Pillow, too, stops and calls an image a decompression bomb: 179 megapixels."""


PNG_BIT_DEPTH = 24
"""Where the byte stands in a PNG file: in IHDR, which comes first."""
RAW_PROFILES = ("Raw profile type exif", "Raw profile type APP1")
"""Texts of a PNG that hold EXIF data as hexadecimal digits; ImageMagick writes them."""
Background = Sequence[int] | None
"""The colour behind transparent pixels, 0 to 255 a channel; None leaves the alpha channel out."""

ROTATED = range(2, 9)
"""EXIF orientations that are not upright."""

ImageFault = Literal["unreadable", "empty", "not_an_image", "bomb", "damaged", "32_bit", "mask"]


class ImageError(UserError):
    """An image that cannot be decoded.

    Args:
        name: The image's name.
        fault: What is wrong, for a program.
        reason: What is wrong, for a person.
    """

    def __init__(self, name: str, fault: ImageFault, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.fault = fault
        self.reason = reason


@dataclass(frozen=True)
class Picture:
    """One stored image, upright, whose pixels are decoded on demand.

    Attributes:
        name: What it is called in messages.
        height: Height in pixels.
        width: Width in pixels.
        stored: A JPEG that stands upright, or pixels (C, H, W) uint8.
    """

    name: str
    height: int
    width: int
    stored: JpegPicture | Tensor

    @classmethod
    def of(cls, pixels: Tensor, name: str) -> "Picture":
        """Wrap an image that is decoded already, (C, H, W) uint8."""
        return cls(name, pixels.shape[-2], pixels.shape[-1], pixels)

    def pixels(self) -> Tensor:
        """The whole image, (C, H, W) uint8.

        Raises:
            ImageError: The data are damaged; names the image.
        """
        if isinstance(self.stored, Tensor):
            return self.stored
        with _named(self.name):
            return self.stored.pixels()

    def region(self, top: int, left: int, height: int, width: int, size: int) -> Tensor:
        """A part of the image, (C, h, w) uint8, that will be resized to ``size`` pixels a side.

        It has ``height`` x ``width`` pixels, or a half, a quarter or an eighth of that where it is much larger than
        ``size``: a JPEG is decoded no further than it has to be.

        Raises:
            ImageError: The data are damaged; names the image.
        """
        if isinstance(self.stored, Tensor):
            return self.stored[:, top : top + height, left : left + width]
        with _named(self.name):
            return self.stored.region(top, left, height, width, size)


def open_picture(encoded: bytes, in_channels: int, name: str, background: Background = None) -> Picture:
    """Open an image in the format of its content; its suffix is ignored.

    Greyscale, CMYK, palette and 16-bit images are converted; EXIF orientation is applied.

    Args:
        encoded: The file's bytes.
        in_channels: 1 for greyscale, 3 for RGB.
        name: The image's name, for messages.
        background: The colour behind transparent pixels; None leaves the alpha channel out.

    Raises:
        ImageError: Empty, truncated, too large, or not an image.
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
    """Decode an image: ``open_picture(…).pixels()``, (C, H, W) uint8."""
    return open_picture(encoded, in_channels, name, background).pixels()


def read_file(path: Path) -> bytes:
    """Read an image file.

    Raises:
        ImageError: The file cannot be read; names it.
    """
    try:
        with path.open("rb", buffering=0) as file:  # a quarter faster than read_bytes
            return file.read()
    except OSError as error:
        raise ImageError(str(path), "unreadable", f"cannot be read ({error.strerror})") from error


def decode_file(path: Path, in_channels: int, background: Background = None) -> Tensor:
    """Read and decode an image file: (C, H, W) uint8.

    Raises:
        ImageError: The file cannot be read or decoded; names it.
    """
    return decode(read_file(path), in_channels, str(path), background)


def open_with_pillow(encoded: bytes) -> ImageFile:
    """Read the header of an image in one of ``FORMATS``; refuses more than ``MAX_PIXELS``."""
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    image.info.pop("xmp", None)  # from which Pillow would turn a TIFF, as nothing else is turned
    return image


def alpha(image: Image.Image, encoded: bytes) -> Image.Image | None:
    """The opacity of each pixel of a loaded image, 0 to 255 in mode ``L``; None where the format says nothing of it.

    Args:
        image: As Pillow has it.
        encoded: The file's bytes.
    """
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A")
    key = image.info.get("transparency")  # a colour, or for a palette an index or the opacity of each
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
    """Check whether any pixel of an image is not fully opaque; the image can be decoded."""
    if encoded.startswith(START):  # a JPEG
        return False
    image = open_with_pillow(encoded)
    image.load()
    opacity = alpha(image, encoded)
    return opacity is not None and bool(np.asarray(opacity).min() < 255)


def _with_pillow(encoded: bytes, mode: str, name: str, background: Background) -> Tensor:
    # All PNGs too: a damaged one ends the whole process inside torchvision 0.29's decode_png.
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
    """EXIF orientation in which the pixels of an image are stored, 1 (upright) to 8; as torchvision, not what XMP says.

    Pillow turns a TIFF upright itself as it loads it. A PNG must be loaded: its EXIF data may follow its pixels.
    """
    if image.format == "TIFF":  # its own tags
        return int(image.getexif().get(ORIENTATION, 1))
    if "exif" in image.info:
        return exif_orientation(image.info["exif"])
    profiles = (_raw_profile(image.info[key]) for key in RAW_PROFILES if key in image.info)
    return next((exif_orientation(profile) for profile in profiles), 1)


def _raw_profile(text: str) -> bytes:
    """The data in the text of a PNG: a name, their length and hexadecimal digits, with line breaks between all."""
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
    """Let whatever is wrong with an image be an error that names it."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(name, "not_an_image", f"not an image; expected one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(name, "bomb", str(error)) from error
    except Exception as error:  # whatever damaged bytes lead the decoders to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(name, "damaged", f"truncated or damaged image ({reason})") from error
