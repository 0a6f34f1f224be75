"""Objects as pictures: boxes, names and masks over their image."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms.v2 import functional as TF
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from convatlas.data.shapes_on_disk import voc_palette

LONGEST_SIDE = 320
"""Of a picture, in pixels: names are readable there, on small images too."""
OPACITY = 0.45
"""Of an object's mask over the image."""


def objects_png(
    image: Tensor, boxes: Tensor, labels: Sequence[int], names: Sequence[str], masks: Tensor | None = None
) -> bytes:
    """Encode an image with its objects as a PNG.

    Args:
        image: (C, H, W) uint8.
        boxes: x0, y0, x1, y1 in pixels, (n, 4).
        labels: Classes, which have a colour each.
        names: What is written at each box.
        masks: The objects' pixels, (n, H, W); None draws boxes alone.
    """
    height, width = image.shape[-2:]
    factor = LONGEST_SIDE / max(height, width)
    size = [max(1, round(height * factor)), max(1, round(width * factor))]
    picture = TF.resize(image.expand(3, -1, -1), size, antialias=True)
    if len(labels):
        palette = torch.tensor(voc_palette()).view(256, 3).tolist()
        colours = [tuple(palette[1 + label % 255]) for label in labels]
        if masks is not None:
            shapes = TF.resize(masks.to(torch.uint8), size, interpolation=TF.InterpolationMode.NEAREST_EXACT)
            picture = draw_segmentation_masks(picture, shapes.bool(), alpha=OPACITY, colors=colours)
        places = boxes * torch.tensor([size[1] / width, size[0] / height] * 2)
        places = places.minimum(torch.tensor([size[1], size[0]] * 2) - 1)
        picture = draw_bounding_boxes(picture, places, list(names), colours, width=2)
    return bytes(encode_png(picture).numpy())
