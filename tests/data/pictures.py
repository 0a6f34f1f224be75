"""Small pictures for the tests of augmentations."""

import torch
from torch import Tensor


def picture(channels: int, height: int = 20, width: int = 24) -> Tensor:
    """Colour gradients with noise on them: every grey level's neighbourhood is inhabited, (C, H, W) uint8."""
    generator = torch.Generator().manual_seed(channels)
    rows, columns = torch.linspace(0, 200, height)[:, None], torch.linspace(200, 0, width)
    noise = torch.randint(0, 56, (channels, height, width), generator=generator)
    return ((rows + columns) / 2 + noise).to(torch.uint8)
