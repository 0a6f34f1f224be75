"""U-Net (Ronneberger, Fischer and Brox, MICCAI 2015)."""

from typing import Literal

import torch
from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.models.classification.classifier import dropout_layer
from convatlas.models.segmentation.segmenter import Segmenter


class UNet(Segmenter):
    """A contracting and an expanding path with a skip connection at each level (figure 1).

    The paper uses ``valid`` convolutions, so that the output belongs to the central part of the image (388 of 572
    pixels), and no batch norm. Weights are initialised from N(0, 2 / fan-in) (section 3), biases with 0.

    Args:
        padding: ``valid``: no padding, as in the paper. ``same``: the output has the size of the image, which must be a
            multiple of the stride of the lowest level, 16 with five levels.
        batch_norm: Whether to apply batch norm after each 3x3 convolution, which the paper does not.
        width: Number of channels of the first level. Each further level has twice as many.
        levels: Number of levels, including the lowest.
        dropout: Probability that a value at the end of the contracting path is dropped (section 3.1).
        num_classes: Number of classes, including the background.
        in_channels: Number of channels of the input.
    """

    classifier_name = "classifier"

    def __init__(
        self,
        *,
        padding: Literal["valid", "same"] = "valid",
        batch_norm: bool = False,
        width: int = 64,
        levels: int = 5,
        dropout: float = 0.5,
        num_classes: int = 21,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.backbone = None
        self.in_channels = in_channels
        self.padding = padding
        self.image_size = 572 if padding == "valid" else 512
        self.levels = levels
        self.size_step = step = 1 << (levels - 1)
        lost = 0 if padding == "same" else 4  # by each pair of convolutions
        self.border = lost * (3 * step - 2) // 2
        self.smallest = 2 * self.border + next(
            side for side in range(1, step + 1) if (side + lost * (step - 1)) % step == 0
        )
        widths = [width * 2**level for level in range(levels)]
        self.contracting, self.pool = nn.ModuleList(), nn.MaxPool2d(2)
        for channels in widths:
            self.contracting.append(_two_convolutions(in_channels, channels, padding, batch_norm))
            in_channels = channels
        self.dropout = dropout_layer(dropout)
        self.upconvs, self.expanding = nn.ModuleList(), nn.ModuleList()
        for channels in reversed(widths[:-1]):
            self.upconvs.append(nn.ConvTranspose2d(2 * channels, channels, 2, stride=2))
            self.expanding.append(_two_convolutions(2 * channels, channels, padding, batch_norm))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                _initialise(layer)
        self.num_features = width
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last 1x1 convolution by a new one with ``num_classes`` outputs."""
        self.num_classes = num_classes
        self.classifier = nn.Conv2d(self.num_features, num_classes, 1)
        _initialise(self.classifier)

    def output_size(self, image_size: int) -> int:
        """Return the side of the output for square images with sides of ``image_size``, in pixels.

        With ``same`` it is the side of the image. With ``valid`` and five levels it is 184 pixels less.

        Raises:
            UserError: The image is too small, or the input of a pool would have an odd size.
        """
        if image_size < self.smallest or (image_size - self.smallest) % self.size_step:
            raise UserError(
                f"data.image_size={image_size}: expected {self.smallest} or a multiple of {self.size_step} more, "
                f"which a U-Net of {self.levels} levels with {self.padding} convolutions halves exactly"
            )
        return image_size - 2 * self.border

    def input_size(self, length: int) -> int:
        """Return the smallest height or width of an image for which the output has at least ``length`` pixels."""
        more = length + 2 * self.border - self.smallest
        return self.smallest + max(0, -(-more // self.size_step)) * self.size_step

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes, h, w) of the central part of the images."""
        skips = []
        for level, block in enumerate(self.contracting):
            x = block(x if level == 0 else self.pool(x))
            if level >= self.levels - 2:
                x = self.dropout(x)
            skips.append(x)
        x = skips.pop()
        for upconv, block in zip(self.upconvs, self.expanding, strict=True):
            x = upconv(x)
            x = block(torch.cat([centre(skips.pop(), x.shape[-2], x.shape[-1]), x], dim=1))
        logits: Tensor = self.classifier(x)
        return logits


def centre(x: Tensor, height: int, width: int) -> Tensor:
    """Crop the central part of a map, (…, H, W) to (…, height, width)."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def _two_convolutions(in_channels: int, channels: int, padding: str, batch_norm: bool) -> nn.Sequential:
    block = nn.Sequential()
    for _ in range(2):
        block.append(nn.Conv2d(in_channels, channels, 3, padding=padding, bias=not batch_norm))
        if batch_norm:
            block.append(nn.BatchNorm2d(channels))
        block.append(nn.ReLU(inplace=True))
        in_channels = channels
    return block


def _initialise(layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
    taps = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1  # an up-convolution: one per pixel
    nn.init.normal_(layer.weight, std=(2 / (layer.in_channels * taps)) ** 0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
