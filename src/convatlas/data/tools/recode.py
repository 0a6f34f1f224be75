"""Encode images for shards: keep the stored bytes, or write a smaller JPEG."""

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from torchvision.transforms.v2 import functional as TF

from convatlas.data.images.decode import FORMATS, MAX_PIXELS, Background, decode, is_transparent, open_with_pillow
from convatlas.data.images.jpeg import open_jpeg
from convatlas.errors import UserError

SUFFIXES = {
    "JPEG": "jpg",
    "MPO": "jpg",  # with a second picture behind it
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "PPM": "ppm",
    "TIFF": "tif",
    "GIF": "gif",
}
"""The file suffix of each of Pillow's formats."""


@dataclass(frozen=True, kw_only=True)
class Reencode:
    """Make large images smaller.

    Pillow's Lanczos filter, which widens with the scale (antialiasing) and computes with integers: the same bytes on
    every machine. A smaller image would only lose, so it keeps its own bytes.

    Args:
        side: The side of the result in pixels.
        which: Whether that is its short or its long side.
        quality: Quality of the JPEG, 1 to 100.
        background: The colour behind transparent pixels, which a JPEG cannot have.
    """

    side: int
    which: Literal["short", "long"]
    quality: int
    background: Background = None

    def __call__(self, size: tuple[int, int], encoded: bytes, in_channels: int, name: str) -> bytes | None:
        """Encode an image anew.

        Args:
            size: Its width and height, as stored.
            encoded: Its bytes.
            in_channels: 1 for greyscale, 3 for RGB.
            name: The image's name, for messages.

        Returns:
            A JPEG, or None for an image that is small enough.

        Raises:
            UserError: It cannot be decoded, or it is transparent and there is no background.
        """
        measure = min if self.which == "short" else max
        scale = self.side / measure(size)
        if scale >= 1:
            return None
        pixels = decode(encoded, in_channels, name, self.background)
        if self.background is None and is_transparent(encoded):
            raise UserError(
                f"{name}: has transparent pixels, and resize.side stores it as JPEG, which has none; expected "
                "data.background=[255,255,255], or another colour to put behind them"
            )
        height, width = (max(1, round(side * scale)) for side in pixels.shape[-2:])
        buffer = io.BytesIO()
        smaller = TF.to_pil_image(pixels).resize((width, height), Image.Resampling.LANCZOS)
        smaller.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def stored_form(encoded: bytes, shrink: Reencode | None, in_channels: int, name: str) -> tuple[str, bytes]:
    """Return the suffix and bytes of an image in a shard.

    Args:
        encoded: The file's bytes.
        shrink: Makes it smaller; None leaves every image as it is.
        in_channels: 1 for greyscale, 3 for RGB.
        name: The image's name, for messages.

    Returns:
        The suffix of its true format, and its bytes.

    Raises:
        UserError: Not an image, or one that cannot be decoded.
    """
    jpeg = open_jpeg(encoded, in_channels)  # Pillow refuses some headers that training reads
    if jpeg is not None and jpeg.height * jpeg.width <= MAX_PIXELS:
        suffix, size = "jpg", (jpeg.width, jpeg.height)
    else:
        try:
            image = open_with_pillow(encoded)  # the header alone
        except Exception as error:  # whatever damaged bytes lead Pillow to
            raise UserError(f"{name}: not an image; expected one of {', '.join(FORMATS)}") from error
        suffix, size = SUFFIXES[image.format or ""], image.size
    smaller = shrink and shrink(size, encoded, in_channels, name)
    return ("jpg", smaller) if smaller else (suffix, encoded)
