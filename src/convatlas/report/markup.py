"""Pieces that every page shares: templates, images as data, numbers as text."""

import base64
import io
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from convatlas.report.figures import PANELS
from convatlas.report.run_record import number

TEMPLATES = Environment(
    loader=PackageLoader("convatlas.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

SMALL_IMAGE = 128
"""Images with fewer pixels a side are enlarged pixel by pixel rather than blurred."""

Picture = dict[str, object]


def picture(content: bytes) -> Picture | None:
    """Turn the bytes of a PNG or JPEG into a data URI and whether it is small; None if they are no image."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            kind, size = str(image.format).lower(), max(image.size)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
    return {
        "uri": f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
        "small": size < SMALL_IMAGE,
    }


def image_file(folder: Path, name: str) -> Picture | None:
    """Read an image inside a folder; None if it is absent, no image, or a path that leads out of the folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    return picture(path.read_bytes())


def script_json(text: str) -> Markup:
    """Make JSON safe inside a ``<script>`` element: no character that could end it is left."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


def metric_label(name: str, capital: bool = True) -> str:
    """A metric as a person writes it: ``test/top1`` becomes ``Test top-1``."""
    text = name.replace("/", " ").replace("top1", "top-1").replace("top5", "top-5")
    text = text.replace("_", " ").replace("iou", "IoU").replace(" map", " mAP").replace(" mar ", " mAR ")
    return text[:1].upper() + text[1:] if capital else text


def metric_text(name: str, value: object, digits: int = 2) -> str:
    """A metric's value: accuracies in per cent, other numbers with four significant digits; else as it stands."""
    finite = number(value)
    if finite is None:
        return "–" if value is None else str(value)
    panel = PANELS.get(name.rpartition("/")[2])
    if panel is not None and panel.axis_format.endswith("%"):
        return f"{100 * finite:.{digits}f} %"
    return f"{finite:.4g}"
