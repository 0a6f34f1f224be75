"""Small pictures of samples, for pages."""

from torch import Tensor
from torchvision.io import encode_png
from torchvision.transforms.v2 import functional as TF

LONGEST_SIDE = 160
"""Pixels; smaller images stay as they are."""


def thumbnail_png(image: Tensor) -> bytes:
    """Encode an image, (C, H, W) uint8, as a PNG of at most 160 pixels a side."""
    if max(image.shape[-2:]) > LONGEST_SIDE:
        image = TF.resize(image, size=None, max_size=LONGEST_SIDE, antialias=True)
    return bytes(encode_png(image).numpy())
