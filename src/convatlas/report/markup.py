"""Helpers of all pages: templates, embedded images, embedded JSON."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from convatlas.record.files import file_inside

TEMPLATES = Environment(
    loader=PackageLoader("convatlas.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

SMALL_IMAGE = 128
"""Images with fewer pixels on their longer side are enlarged without interpolation."""

EmbeddedImage = dict[str, object]


def picture(content: bytes) -> EmbeddedImage | None:
    """Embed a PNG or JPEG: its data URI, and whether it is small. None if the bytes are no image."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            kind, size = str(image.format).lower(), max(image.size)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return {
        "uri": f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        "small": size < SMALL_IMAGE,
    }


def image_file(folder: Path, name: str) -> EmbeddedImage | None:
    """Embed an image of a folder; None if it is absent, no image, or outside the folder."""
    path = file_inside(folder, name)
    return None if path is None else picture(path.read_bytes())


def script_json(text: str) -> Markup:
    """Escape JSON for a ``<script>`` element, so that no text in it can end the element."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704
