"""Encoded images to tensors; whatever is wrong with one is an error that names it."""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from convatlas.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
MAX_PIXELS = 178_956_970
"""Pillow's own bound for an image that is no decompression bomb: 2 × 89 megapixels."""


def decode_file(path: Path, in_channels: int) -> Tensor:
    """Read and decode an image file.

    Raises:
        UserError: The file cannot be read or decoded; names it.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return decode(encoded, in_channels, str(path))


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
        # libjpeg fills what a truncated file lacks with grey and says nothing: look for the end itself.
        if encoded.startswith(JPEG_START) and JPEG_END not in encoded[-4096:]:
            raise UserError(f"{name}: truncated image (a JPEG without its end)")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(encoded))  # reads the header alone
        if image.width * image.height > MAX_PIXELS:
            raise UserError(f"{name}: {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
        if image.format == "JPEG" and image.mode in ("L", "RGB"):
            buffer = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
            mode = ImageReadMode.GRAY if in_channels == 1 else ImageReadMode.RGB
            decoded: Tensor = decode_jpeg(buffer, mode, apply_exif_orientation=True)
            return decoded
        return _with_pillow(image, in_channels)
    except (UnidentifiedImageError, OSError, RuntimeError, SyntaxError, ValueError) as error:
        raise UserError(f"{name}: truncated or not an image ({str(error).splitlines()[0]})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name}: {error}") from error


def _with_pillow(image: Image.Image, in_channels: int) -> Tensor:
    image.load()
    orientation = image.getexif().get(0x0112, 1)
    if image.mode.startswith("I"):  # 16 bits: keep the upper eight
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    image = image.convert("L" if in_channels == 1 else "RGB")
    if orientation in TRANSPOSED:
        image = image.transpose(TRANSPOSED[orientation])
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if in_channels == 1 else pixels.permute(2, 0, 1).contiguous()


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
