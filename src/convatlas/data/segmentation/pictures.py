"""Masks as pictures: with VOC's colours, alone and over their image."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms.v2 import functional as TF

from convatlas.data.batch import IGNORE_INDEX
from convatlas.data.sources.shapes_on_disk import voc_palette

LONGEST_SIDE = 320
"""Maximum long side of an overlay in pixels. Smaller images are not resized."""
OPACITY = 0.55
"""Opacity of the colour of a class over the image. The first class, the background, is not coloured."""


def class_colours(num_classes: int) -> list[str]:
    """The colour of each class as CSS writes it."""
    colours = np.array(voc_palette()).reshape(256, 3)[:num_classes]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours]


def mask_png(mask: Tensor) -> bytes:
    """Encode a mask, (H, W) uint8, as a PNG of its classes with VOC's palette."""
    image = Image.fromarray(mask.numpy())
    image.putpalette(voc_palette())
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def overlay_png(image: Tensor, mask: Tensor) -> bytes:
    """Encode an image (C, H, W) uint8 with its mask (H, W) uint8 over it; void is white."""
    colours = torch.tensor(voc_palette()).view(256, 3)
    colours[IGNORE_INDEX] = 255
    shares = torch.full((256, 1, 1), OPACITY)
    shares[0] = 0
    share = shares[mask.long(), 0, 0]
    mixed = torch.lerp(image.expand(3, -1, -1).float(), colours[mask.long()].permute(2, 0, 1).float(), share)
    pixels = mixed.round().to(torch.uint8)
    if max(pixels.shape[-2:]) > LONGEST_SIDE:
        pixels = TF.resize(pixels, size=None, max_size=LONGEST_SIDE, antialias=True)
    return bytes(encode_png(pixels).numpy())
