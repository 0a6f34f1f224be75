"""Encoded images to tensors; whatever is wrong with one is an error that names it."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from convatlas.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""What Pillow may try, the frequent first: some of the formats that it knows start other programs."""
JPEG_END = b"\xff\xd9"


def decode_file(path: Path, in_channels: int) -> Tensor:
    """Read and decode an image file.

    Raises:
        UserError: The file cannot be read or decoded; names it.
    """
    return decode(read_file(path), in_channels, str(path))


def read_file(path: Path) -> bytes:
    """Read an image file without decoding it.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def decode(encoded: bytes, in_channels: int, name: str) -> Tensor:
    """Decode an image by its content, whatever its name says.

    Greyscale, CMYK, palette and 16-bit images are converted; EXIF orientation is applied.

    Args:
        encoded: The file's bytes.
        in_channels: 1 for greyscale, 3 for RGB.
        name: The image's name, for messages.

    Returns:
        The image, (C, H, W) uint8.

    Raises:
        UserError: Empty, truncated, too large, or not an image.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)  # the header alone; refuses more than 179 megapixels
        # torchvision fills what a truncated JPEG lacks with grey and says nothing; Pillow refuses it. So whatever does
        # not finish with the end marker is Pillow's: a truncated file, or a photograph with a video behind it.
        # All PNGs are Pillow's too: a damaged one ends the whole process inside torchvision 0.29's decode_png.
        if image.format == "JPEG" and image.mode in ("L", "RGB") and encoded.rstrip(b"\0").endswith(JPEG_END):
            buffer = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
            mode = ImageReadMode.GRAY if in_channels == 1 else ImageReadMode.RGB
            decoded: Tensor = decode_jpeg(buffer, mode, apply_exif_orientation=True)
            return decoded
        return _with_pillow(image, "L" if in_channels == 1 else "RGB", name)
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not an image; expected one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: {error}") from error
    except UserError:
        raise
    except Exception as error:  # whatever damaged bytes lead the decoders to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: truncated or damaged image ({reason})") from error


def _with_pillow(image: Image.Image, mode: str, name: str) -> Tensor:
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise UserError(f"{name}: 32 bits a pixel; expected 8 or 16 bits a channel")
    if image.mode.startswith("I"):  # 16 bits: keep the upper eight
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode != mode:
        image = image.convert(mode)
    if orientation in TRANSPOSED:
        image = image.transpose(TRANSPOSED[orientation])
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, -1).permute(2, 0, 1).contiguous()


TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""
