"""Objects as pictures: boxes, names and masks over their image."""

import colorsys
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms.v2 import functional as TF
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

LONGEST_SIDE = 320
"""Long side of a picture in pixels. It is large enough for readable names, also on small images."""
OPACITY = 0.45
"""Opacity of an object's mask over the image."""


def objects_png(
    image: Tensor, boxes: Tensor, labels: Sequence[int], names: Sequence[str], masks: Tensor | None = None
) -> bytes:
    """Encode an image with its objects as a PNG.

    Args:
        image: (C, H, W) uint8.
        boxes: x0, y0, x1, y1 in pixels, (n, 4).
        labels: Classes from 0, which have a colour each.
        names: The text at each box.
        masks: The objects' pixels, (n, H, W); None draws boxes alone.
    """
    height, width = image.shape[-2:]
    factor = LONGEST_SIDE / max(height, width)
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    picture = TF.resize(image.expand(3, -1, -1), size, antialias=True)
    if len(labels):
        colours = [_colour(label) for label in labels]
        if masks is not None:
            shapes = TF.resize(masks.to(torch.uint8), size, interpolation=TF.InterpolationMode.NEAREST_EXACT)
            picture = draw_segmentation_masks(picture, shapes.bool(), alpha=OPACITY, colors=colours)
        places = boxes * torch.tensor([size[1] / width, size[0] / height] * 2)
        places = places.minimum(torch.tensor([size[1], size[0]] * 2) - 1)
        picture = draw_bounding_boxes(picture, places, list(names), colours, width=2)
    return bytes(encode_png(picture).numpy())


def _colour(label: int) -> tuple[int, int, int]:
    """A bright colour, far from those of the labels next to it: the golden section of the circle of hues apart."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(0.6180339887 * label % 1, 0.7, 1))
    return red, green, blue
