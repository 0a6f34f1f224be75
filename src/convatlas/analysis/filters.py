"""A picture of what the first convolution has learnt."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid, save_image

from convatlas.models.base import Architecture

TILE = 44
"""About how many pixels a side a filter is shown in."""


def filter_grid(net: Architecture) -> Tensor:
    """The filters of the first convolution side by side, each stretched to its own range.

    Args:
        net: A network, its weights on the CPU.

    Returns:
        An image (3, H, W) float32 in [0, 1]: in colour where the network sees three channels, otherwise the mean
        over its channels in grey.
    """
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    filters = first.weight.detach().float()
    if filters.shape[1] != 3:
        filters = filters.mean(dim=1, keepdim=True)
    enlarged = F.interpolate(filters, scale_factor=max(1, TILE // filters.shape[-1]), mode="nearest")
    columns = 1 + int((len(filters) - 1) ** 0.5)
    grid: Tensor = make_grid(enlarged, nrow=2 * columns, padding=2, normalize=True, scale_each=True, pad_value=1.0)
    return grid


def write_filters(net: Architecture, path: Path) -> None:
    """Write ``filter_grid`` as a PNG."""
    save_image(filter_grid(net), path)
