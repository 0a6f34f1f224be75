"""Residual networks and their plain twins (He et al., "Deep Residual Learning", CVPR 2016)."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.models.classification.classifier import Classifier, linear_at_each_position
from convatlas.models.classification.residual_blocks import BasicBlock, Bottleneck, Padding, ZeroPadShortcut

Shortcut = Literal["A", "B", "C"]


class _ResidualNetwork(Classifier):
    """A network with a global average pool and one linear layer after the last stage."""

    stem: Literal["imagenet", "small"]
    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    maxpool: nn.Module
    fc: nn.Linear
    stages: tuple[str, ...]
    layer1: nn.Sequential

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to maps (N, c, h, w): ``conv1``, then each stage, ``layer1`` to the last."""
        maps = {"conv1": F.relu(self.bn1(self.conv1(x)), inplace=True)}
        x = self.maxpool(maps["conv1"])
        for name in self.stages:
            x = maps[name] = self.get_submodule(name)(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(self.forward_features(x), 1).flatten(1))
        return logits

    def score_map(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to class scores (N, num_classes, h, w), whose mean is the network's output."""
        return linear_at_each_position(self.fc, self.forward_features(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace ``fc`` by a newly initialised layer with ``num_classes`` outputs."""
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes)


class ResNet(_ResidualNetwork):
    """The ImageNet networks of table 1.

    With option B, ``stride_in="3x3"`` and the ``imagenet`` stem, parameter names and outputs are those of torchvision's
    ``resnet18`` to ``resnet152``. Convolutions have He's normal initialisation with the fan-out, as in the authors'
    later Torch code.

    Args:
        depth: Number of layers with weights. 18 and 34 use basic blocks, larger depths use bottlenecks.
        shortcut: A: identity with zero-padded channels; B: projections where the shape changes; C: projections
            everywhere. A plain network has no shortcuts.
        shortcut_padding: Position of the zeros in option A. ``end``: after the channels, as in the authors' Torch code;
            ``both``: half before and half after, as in some ports. The names and shapes of the weights are the same.
        stride_in: The convolution of a bottleneck that has the stride: ``1x1`` as in the paper (v1), or ``3x3`` as in
            later networks (v1.5, which is more accurate and needs more computation). Not used by basic blocks.
        residual: Whether blocks have shortcuts. False gives the plain network of the same depth.
        output_stride: Stride of the last feature map in pixels. Strides that would exceed it are replaced by dilations.
            The map of a dilated network, subsampled, equals the map of the undilated network.
        zero_init_residual: Whether to initialise the scale of the last BatchNorm of each block with zero, so that the
            block is initially the identity (Goyal et al. 2017, section 5.1).
        stochastic_depth: Probability that an image skips the last block in training. It increases linearly from the
            first block (Huang et al. 2016, section 3). In training, the output of a block that is not skipped is scaled
            up, so that evaluation needs no scaling.
        stem: ``imagenet`` is a 7x7 convolution with stride 2 and a max pool. ``small`` is 3x3 with stride 1 without the
            pool for images of 32 pixels, for which the paper's stem and stages, with a total stride of 32, would give a
            1x1 map.
        pool: The border of the 3x3 max pool with stride 2 in the ``imagenet`` stem. ``padded`` pads by one pixel;
            ``ceil`` rounds the size up without padding, as in the authors' Caffe networks. The names and shapes of the
            weights are the same.
        num_classes: Number of outputs.
        in_channels: Number of channels of the input.

    Raises:
        UserError: ``zero_init_residual`` or ``stochastic_depth`` is given for a plain network, whose output they would
            set to zero; ``stochastic_depth`` is not a probability.
    """

    BLOCKS: ClassVar[dict[int, tuple[int, int, int, int]]] = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }

    def __init__(
        self,
        *,
        depth: Literal[18, 34, 50, 101, 152],
        shortcut: Shortcut = "B",
        shortcut_padding: Padding = "end",
        stride_in: Literal["1x1", "3x3"] = "1x1",
        residual: bool = True,
        output_stride: Literal[8, 16, 32] = 32,
        zero_init_residual: bool = False,
        stochastic_depth: float = 0.0,
        stem: Literal["imagenet", "small"] = "imagenet",
        pool: Literal["padded", "ceil"] = "padded",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if zero_init_residual and not residual:
            raise UserError("model.net.zero_init_residual=true: expected a net with model.net.residual=true")
        imagenet = stem == "imagenet"
        bottleneck = None if depth < 50 else stride_in
        expansion = BasicBlock.expansion if bottleneck is None else Bottleneck.expansion
        counts = self.BLOCKS[depth]
        drops = _drop_probabilities(stochastic_depth, sum(counts), residual)

        self.in_channels = in_channels
        self.depth = depth
        self._is_torchvisions = imagenet and residual and shortcut == "B" and bottleneck != "1x1"
        self._is_torchvisions = self._is_torchvisions and pool == "padded"
        self.unnamed_settings = _unnamed_settings(
            stride_in=bottleneck,
            shortcut_padding=shortcut_padding if residual and shortcut == "A" else None,
            pool=pool if imagenet else None,
        )

        self._add_stem(imagenet=imagenet, pool=pool)
        stage = partial(
            _stage,
            shortcut=shortcut,
            padding=shortcut_padding,
            residual=residual,
            bottleneck=bottleneck,
            drops=drops,
        )
        self.num_features = 512 * expansion
        self._add_stages(stage, counts, expansion, output_stride // (4 if imagenet else 1))
        _he_init(self)
        if zero_init_residual:
            _zero_last_norms(self)
        self.reset_classifier(num_classes)

    def _add_stem(self, *, imagenet: bool, pool: Literal["padded", "ceil"]) -> None:
        kernel, stride, padding = (7, 2, 3) if imagenet else (3, 1, 1)
        self.conv1 = nn.Conv2d(self.in_channels, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        border = 1 if pool == "padded" else 0
        self.maxpool = nn.MaxPool2d(3, 2, border, ceil_mode=pool == "ceil") if imagenet else nn.Identity()

    def _add_stages(
        self, stage: Callable[..., nn.Sequential], counts: Sequence[int], expansion: int, max_stride: int
    ) -> None:
        """Add ``layer1`` to ``layer4``. Strides whose product would exceed ``max_stride`` become dilations."""
        self.stages = ("layer1", "layer2", "layer3", "layer4")
        self.dilation, reached, channels = 1, 1, 64
        for index, (name, count) in enumerate(zip(self.stages, counts, strict=True)):
            width = 64 * 2**index
            wanted = 1 if index == 0 else 2
            stride = wanted if reached * wanted <= max_stride else 1
            dilation = self.dilation, self.dilation * wanted // stride
            setattr(self, name, stage(channels, width, count, stride, dilation))
            self.dilation, reached, channels = dilation[1], reached * stride, width * expansion

    @property
    def torchvision_name(self) -> str | None:
        """``resnet18`` to ``resnet152``; None for settings that torchvision does not have (A, C, v1, plain, small)."""
        return f"resnet{self.depth}" if self._is_torchvisions else None


class CifarResNet(_ResidualNetwork):
    """The networks for 32-pixel images of section 4.2: three stages of 16, 32 and 64 channels.

    Args:
        depth: Number of layers with weights, 6n + 2 for n blocks per stage: 20, 32, 44, 56, 110 and 1202 in the paper.
        shortcut: As in `ResNet`; the paper uses A in all cases.
        shortcut_padding: As in `ResNet`.
        residual: Whether blocks have shortcuts. False gives the plain network of the same depth.
        stochastic_depth: As in `ResNet`.
        num_classes: Number of outputs.
        in_channels: Number of channels of the input.

    Raises:
        UserError: ``depth`` is not 6n + 2; ``stochastic_depth`` is not a probability or is given for a plain network.
    """

    image_size = 32

    def __init__(
        self,
        *,
        depth: int,
        shortcut: Shortcut = "A",
        shortcut_padding: Padding = "end",
        residual: bool = True,
        stochastic_depth: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise UserError(f"model.net.depth={depth}: expected 6n + 2, such as 20, 32, 44, 56 or 110")
        self.in_channels = in_channels
        drops = _drop_probabilities(stochastic_depth, 3 * blocks, residual)
        stage = partial(
            _stage,
            dilation=(1, 1),
            shortcut=shortcut,
            padding=shortcut_padding,
            residual=residual,
            bottleneck=None,
            drops=drops,
        )
        self.unnamed_settings = _unnamed_settings(
            shortcut_padding=shortcut_padding if residual and shortcut == "A" else None
        )
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.maxpool = nn.Identity()
        self.stages = ("layer1", "layer2", "layer3")
        self.layer1 = stage(16, 16, blocks, 1)
        self.layer2 = stage(16, 32, blocks, 2)
        self.layer3 = stage(32, 64, blocks, 2)
        self.num_features = 64
        _he_init(self)
        self.reset_classifier(num_classes)


def _stage(
    in_channels: int,
    width: int,
    blocks: int,
    stride: int,
    dilation: tuple[int, int],
    *,
    shortcut: Shortcut,
    padding: Padding,
    residual: bool,
    bottleneck: Literal["1x1", "3x3"] | None,
    drops: Iterator[float],
) -> nn.Sequential:
    """Build a stage of blocks with the same width. The first block has the stride or the change of dilation.

    ``bottleneck`` is ``stride_in`` of bottlenecks; None builds basic blocks.
    """
    stage = nn.Sequential()
    out_channels = width * (BasicBlock.expansion if bottleneck is None else Bottleneck.expansion)
    for _ in range(blocks):
        downsample = _downsample(in_channels, out_channels, stride, shortcut, padding) if residual else None
        if bottleneck is None:
            block: nn.Module = BasicBlock(
                in_channels, width, stride, dilation, residual=residual, downsample=downsample, drop=next(drops)
            )
        else:
            block = Bottleneck(
                in_channels,
                width,
                stride,
                dilation,
                stride_in=bottleneck,
                residual=residual,
                downsample=downsample,
                drop=next(drops),
            )
        stage.append(block)
        in_channels, stride, dilation = out_channels, 1, (dilation[1], dilation[1])
    return stage


def _drop_probabilities(last: float, blocks: int, residual: bool) -> Iterator[float]:
    """Compute the drop probability of each block: it increases linearly to ``last`` (Huang et al. 2016, equation 4)."""
    if not 0 <= last < 1:
        raise UserError(f"model.net.stochastic_depth={last}: expected a probability, from 0 to below 1")
    if last and not residual:
        raise UserError(f"model.net.stochastic_depth={last}: expected a net with model.net.residual=true")
    return (last * block / blocks for block in range(1, blocks + 1))


def _unnamed_settings(**settings: str | None) -> dict[str, str]:
    """Return ``unnamed_settings`` of a network from all settings of this kind; None means that it does not use one."""
    return {name: value for name, value in settings.items() if value is not None}


def _downsample(
    in_channels: int, out_channels: int, stride: int, shortcut: Shortcut, padding: Padding
) -> nn.Module | None:
    if shortcut != "C" and stride == 1 and in_channels == out_channels:
        return None
    if shortcut == "A":
        return ZeroPadShortcut(stride=stride, extra_channels=out_channels - in_channels, padding=padding)
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _zero_last_norms(model: nn.Module) -> None:
    for block in model.modules():
        if isinstance(block, BasicBlock):
            nn.init.zeros_(block.bn2.weight)
        elif isinstance(block, Bottleneck):
            nn.init.zeros_(block.bn3.weight)


def _he_init(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
