"""Building blocks of residual networks: basic and bottleneck blocks, and the shortcut without parameters."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

Padding = Literal["end", "both"]
"""Position of the zero channels of an option A shortcut."""


class ZeroPadShortcut(nn.Module):
    """The shortcut of option A: subsamples by the stride and adds channels of zeros. It has no parameters.

    Args:
        stride: The stride of the subsampling.
        extra_channels: Number of channels of zeros.
        padding: ``end`` puts the zeros after the channels; ``both`` puts half of them before and half after.
    """

    def __init__(self, *, stride: int, extra_channels: int, padding: Padding = "end") -> None:
        super().__init__()
        self.stride = stride
        before = extra_channels // 2 if padding == "both" else 0
        self.extra_channels = (before, extra_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + extra_channels, ceil(H / stride), ceil(W / stride))."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.extra_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (figure 5, left). The first has the stride.

    Args:
        in_channels: Number of channels of the input.
        width: Number of output channels of both convolutions.
        stride: 1 or 2.
        dilation: Dilation of the input map, which the first convolution has, and of the output map.
        residual: Whether the input is added to the output.
        downsample: The shortcut of the input; None is the identity.
        drop: Probability that an image skips the convolutions in training.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: tuple[int, int],
        *,
        residual: bool,
        downsample: nn.Module | None,
        drop: float,
    ) -> None:
        super().__init__()
        before, after = dilation
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, before, before, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, after, after, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.residual = residual
        self.downsample = downsample
        self.drop = StochasticDepth(drop, "row") if drop else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.drop is not None:
            out = self.drop(out)
        if self.residual:
            out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions (figure 5, right).

    Args:
        in_channels: Number of channels of the input.
        width: Number of output channels of the first two convolutions. The block has four times as many.
        stride: 1 or 2.
        dilation: Dilation of the input map and of the output map.
        stride_in: The convolution that has the stride, or that would have it without dilation.
        residual: Whether the input is added to the output.
        downsample: The shortcut of the input; None is the identity.
        drop: Probability that an image skips the convolutions in training.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: tuple[int, int],
        *,
        stride_in: Literal["1x1", "3x3"],
        residual: bool,
        downsample: nn.Module | None,
        drop: float,
    ) -> None:
        super().__init__()
        first, second = (stride, 1) if stride_in == "1x1" else (1, stride)
        spread = dilation[1] if stride_in == "1x1" else dilation[0]
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, spread, spread, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.residual = residual
        self.downsample = downsample
        self.drop = StochasticDepth(drop, "row") if drop else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 width, ceil(H / stride), ceil(W / stride))."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        if self.drop is not None:
            out = self.drop(out)
        if self.residual:
            out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)
