"""Predict the classes of whole images with a segmentation network: in tiles, at several scales, and mirrored."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from convatlas.errors import UserError
from convatlas.models.segmentation.segmenter import Segmenter


@dataclass(frozen=True, kw_only=True)
class DenseViews:
    """Averages the class probabilities of each pixel over several views of an image.

    A network without padding needs pixels beyond the borders; they are mirrored (U-Net, figure 2).

    Args:
        scales: Factors by which the image is resized (DeepLab v3, section 4.2: 0.5 to 1.75).
        flip: Whether to add the mirror image of each view.
        tile: Height and width, in pixels, of the tiles in which a network without padding processes a large image.
            None processes the image at once. The result is the same.
    """

    scales: tuple[PositiveFloat, ...] = (1.0,)
    flip: bool = False
    tile: PositiveInt | None = None

    def __call__(self, net: Segmenter, images: Sequence[Tensor]) -> list[Tensor]:
        """Map normalised images, each (C, H, W), to log-probabilities, each (num_classes, H, W).

        Raises:
            UserError: ``tile`` is given for a network with padding, or the network does not accept this size.
        """
        by_shape = defaultdict(list)
        for number, image in enumerate(images):
            by_shape[image.shape].append(number)
        found: dict[int, Tensor] = {}
        for numbers in by_shape.values():
            found |= zip(
                numbers, self._of_one_size(net, torch.stack([images[number] for number in numbers])), strict=True
            )
        return [found[number] for number in range(len(images))]

    def _of_one_size(self, net: Segmenter, images: Tensor) -> Tensor:
        views = [(scale, mirrored) for scale in self.scales for mirrored in ((False, True) if self.flip else (False,))]
        probabilities = torch.zeros(())
        for scale, mirrored in views:
            x = images if scale == 1 else _resized(images, [max(1, round(scale * side)) for side in images.shape[-2:]])
            logits = self._logits(net, x.flip(-1) if mirrored else x).float()
            logits = logits.flip(-1) if mirrored else logits
            logits = logits if scale == 1 else _resized(logits, list(images.shape[-2:]))
            if len(views) == 1:
                return logits.log_softmax(dim=1)
            probabilities = probabilities.to(images.device) + logits.softmax(dim=1) / len(views)
        return probabilities.log()

    def _logits(self, net: Segmenter, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.tile is None:
            rows, columns = net.input_size(height), net.input_size(width)
            logits: Tensor = net(mirrored_around(images, net.border, rows, columns))
            return logits[:, :, :height, :width]
        return overlap_tile(net, images, self.tile)


def overlap_tile(net: Segmenter, images: Tensor, tile: int) -> Tensor:
    """Map images (N, C, H, W) to logits (N, num_classes, H, W), a tile at a time (U-Net, figure 2).

    The distance of tiles is a multiple of the network's ``size_step``. Therefore its pools cover the same pixels as in
    the whole image.

    Raises:
        UserError: The network has padding, so that the result would differ from that of the whole image; or the
            network does not accept tiles of this size.
    """
    if net.border == 0:
        raise UserError("protocol.views.tile: expected null, or a network without padding such as model=unet")
    side = net.output_size(tile)
    step = side - side % net.size_step
    if step < 1:
        raise UserError(f"protocol.views.tile={tile}: expected at least {net.input_size(net.size_step)}")
    height, width = images.shape[-2:]
    rows, columns = (-(-length // step) * step - step + tile for length in (height, width))
    around = mirrored_around(images, net.border, rows, columns)
    strips = []
    for top in range(0, height, step):
        tiles = [net(around[:, :, top : top + tile, left : left + tile]) for left in range(0, width, step)]
        strips.append(torch.cat([each[:, :, :step, :step] for each in tiles], dim=3))
    return torch.cat(strips, dim=2)[:, :, :height, :width]


def mirrored_around(images: Tensor, border: int, height: int, width: int) -> Tensor:
    """Pad images (N, C, H, W) by reflection to (height, width), with ``border`` of the pixels above and on the left."""
    for axis, wanted in ((-2, height), (-1, width)):
        length = images.shape[axis]
        if border or wanted != length:
            period = max(1, 2 * (length - 1))  # the outermost pixel is not repeated
            place = (torch.arange(wanted, device=images.device) - border) % period
            images = images.index_select(axis, torch.where(place < length, place, period - place))
    return images


def _resized(x: Tensor, size: list[int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
