"""GoogLeNet (Szegedy et al., "Going Deeper with Convolutions", CVPR 2015), and torchvision's form of it."""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.models.classification.classifier import Classifier, dropout_layer, linear_at_each_position
from convatlas.models.outputs import ClassifierOutput


class ConvUnit(nn.Module):
    """A convolution that keeps the size (at stride 1), BatchNorm or a bias, and ReLU.

    Args:
        in_channels: Channels that enter.
        out_channels: Channels that leave.
        kernel: Odd side of the kernel.
        stride: Step of the convolution.
        batch_norm: Epsilon of the BatchNorm; None is no BatchNorm but a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1, batch_norm: float | None
    ) -> None:
        super().__init__()
        bias = batch_norm is None
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
        self.bn = nn.Identity() if batch_norm is None else nn.BatchNorm2d(out_channels, eps=batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Inception(nn.Module):
    """Four branches side by side: 1x1; 1x1 and 3x3; 1x1 and 5x5; pool and 1x1 (figure 2b).

    Args:
        in_channels: Channels that enter.
        one: Channels of the 1x1 branch, as the next five a column of table 1.
        reduce3: Channels of the 1x1 convolution before the 3x3.
        three: Channels of the 3x3.
        reduce5: Channels of the 1x1 convolution before the 5x5.
        five: Channels of the 5x5.
        pool: Channels of the 1x1 convolution after the pool.
        kernel: Side of the third branch's kernel: 5, or 3 in torchvision.
        batch_norm: As in `ConvUnit`.
    """

    def __init__(
        self,
        in_channels: int,
        one: int,
        reduce3: int,
        three: int,
        reduce5: int,
        five: int,
        pool: int,
        *,
        kernel: int,
        batch_norm: float | None,
    ) -> None:
        super().__init__()
        self.branch1 = ConvUnit(in_channels, one, 1, batch_norm=batch_norm)
        self.branch2 = nn.Sequential(
            ConvUnit(in_channels, reduce3, 1, batch_norm=batch_norm),
            ConvUnit(reduce3, three, 3, batch_norm=batch_norm),
        )
        self.branch3 = nn.Sequential(
            ConvUnit(in_channels, reduce5, 1, batch_norm=batch_norm),
            ConvUnit(reduce5, five, kernel, batch_norm=batch_norm),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            ConvUnit(in_channels, pool, 1, batch_norm=batch_norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, one + three + five + pool, H, W)."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class AuxiliaryHead(nn.Module):
    """A classifier on an intermediate layer (section 5).

    For the 14x14 map of a 224-pixel image, the adaptive pool to 4x4 equals the paper's 5x5 pool with stride 3. It also
    accepts the smaller maps of smaller images.
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float, batch_norm: float | None) -> None:
        super().__init__()
        self.conv = ConvUnit(in_channels, 128, 1, batch_norm=batch_norm)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.dropout = dropout_layer(dropout, "auxiliary_dropout")
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map a feature map (N, in_channels, h, w) to logits (N, num_classes)."""
        x = self.conv(F.adaptive_avg_pool2d(x, 4)).flatten(1)
        logits: Tensor = self.fc2(self.dropout(F.relu(self.fc1(x), inplace=True)))
        return logits


def _pool(side: int = 3) -> nn.Module:
    return nn.MaxPool2d(side, stride=2, ceil_mode=True)


def _norm() -> nn.Module:
    # The constants of the authors' Caffe readers, who divide alpha by 5 as torch does.
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


class _GoogLeNet(Classifier):
    """The common part of both variants; see their docstrings."""

    num_features: int = 1024

    def __init__(
        self,
        *,
        kernel: int,
        lrn: bool,
        batch_norm: float | None,
        last_pool: int,
        dropout: float,
        auxiliary_dropout: float,
        stem: Literal["imagenet", "small"],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.stem = stem
        self.auxiliary_dropout = auxiliary_dropout
        self.batch_norm = batch_norm

        inception = partial(Inception, kernel=kernel, batch_norm=batch_norm)
        if stem == "imagenet":
            self.conv1 = ConvUnit(in_channels, 64, 7, stride=2, batch_norm=batch_norm)
            self.maxpool1 = _pool()
        else:
            self.conv1 = ConvUnit(in_channels, 64, 3, batch_norm=batch_norm)
            self.maxpool1 = nn.Identity()
        self.norm1 = _norm() if lrn else nn.Identity()
        self.conv2 = ConvUnit(64, 64, 1, batch_norm=batch_norm)
        self.conv3 = ConvUnit(64, 192, 3, batch_norm=batch_norm)
        self.norm2 = _norm() if lrn else nn.Identity()
        self.maxpool2 = _pool()
        self.inception3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.maxpool3 = _pool()
        self.inception4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.maxpool4 = _pool(last_pool)
        self.inception5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(832, 384, 192, 384, 48, 128, 128)
        self.dropout = dropout_layer(dropout)
        self._initialise(self)
        self.reset_classifier(num_classes)

    def _initialise(self, module: nn.Module) -> None:
        raise NotImplementedError

    def reset_classifier(self, num_classes: int) -> None:
        """Replace ``fc`` and both auxiliary heads by newly initialised ones with ``num_classes`` outputs."""
        self.num_classes = num_classes
        dropout, batch_norm = self.auxiliary_dropout, self.batch_norm
        self.aux1 = AuxiliaryHead(512, num_classes, dropout=dropout, batch_norm=batch_norm)
        self.aux2 = AuxiliaryHead(528, num_classes, dropout=dropout, batch_norm=batch_norm)
        self.fc = nn.Linear(self.num_features, num_classes)
        for head in (self.aux1, self.aux2, self.fc):
            self._initialise(head)

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to maps (N, c, h, w): ``conv1``, ``conv3``, ``inception3a`` … ``inception5b``."""
        return self._maps_and_auxiliary(x, {})[0]

    def forward(self, x: Tensor) -> Tensor | ClassifierOutput:
        """Map images (N, C, H, W) to logits (N, num_classes); in training, also to those of the auxiliary heads."""
        heads = {"inception4a": self.aux1, "inception4d": self.aux2} if self.training else {}
        maps, auxiliary = self._maps_and_auxiliary(x, heads)
        logits: Tensor = self.fc(self.dropout(F.adaptive_avg_pool2d(maps["inception5b"], 1).flatten(1)))
        return ClassifierOutput(logits, auxiliary) if self.training else logits

    def _maps_and_auxiliary(
        self, x: Tensor, heads: Mapping[str, AuxiliaryHead]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """Compute the feature maps and the logits of the auxiliary heads.

        Each head runs as soon as its map is computed, because the order determines the random numbers of dropout.
        """
        maps: dict[str, Tensor] = {"conv1": self.conv1(x)}
        auxiliary = []
        maps["conv3"] = self.conv3(self.conv2(self.norm1(self.maxpool1(maps["conv1"]))))
        x = self.maxpool2(self.norm2(maps["conv3"]))
        for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
            if name == "4a":
                x = self.maxpool3(x)
            elif name == "5a":
                x = self.maxpool4(x)
            name = f"inception{name}"
            x = maps[name] = self.get_submodule(name)(x)
            if name in heads:
                auxiliary.append(heads[name](x))
        return maps, tuple(auxiliary)

    def score_map(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to class scores (N, num_classes, h, w), whose mean is the network's output."""
        return linear_at_each_position(self.fc, self.dropout(self.forward_features(x)))


class GoogLeNet(_GoogLeNet):
    """The network of table 1, with 5x5 convolutions and both auxiliary heads, which are used only in training.

    Pools round up, and LRN is after the first pool and before the second one, as in figure 3. The paper does not
    describe the initialisation. Here convolutions have He's normal initialisation with the fan-in, linear layers
    N(0, 0.01^2), biases 0.

    Args:
        batch_norm: Whether to apply batch norm after each convolution, in place of LRN and biases.
        dropout: Probability that a feature before the classifier is dropped.
        auxiliary_dropout: Probability that a feature before the classifier of an auxiliary head is dropped.
        stem: ``imagenet`` is a 7x7 convolution with stride 2 and a pool. ``small`` is 3x3 with stride 1 without the
            pool for images of 32 pixels, for which the paper's stem and stages would give a 1x1 map.
        num_classes: Number of outputs of each classifier.
        in_channels: Number of channels of the input.
    """

    def __init__(
        self,
        *,
        batch_norm: bool = False,
        dropout: float = 0.4,
        auxiliary_dropout: float = 0.7,
        stem: Literal["imagenet", "small"] = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__(
            kernel=5,
            lrn=not batch_norm,
            batch_norm=1e-5 if batch_norm else None,
            last_pool=3,
            dropout=dropout,
            auxiliary_dropout=auxiliary_dropout,
            stem=stem,
            num_classes=num_classes,
            in_channels=in_channels,
        )

    def _initialise(self, module: nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)


class GoogLeNetTorchvision(_GoogLeNet):
    """The network that torchvision calls ``googlenet``; parameter names and outputs are the same.

    It differs from the paper's: 3x3 where the paper has 5x5 (pytorch/vision#906), BatchNorm with an epsilon of
    1e-3 and no LRN, a last pool of 2x2, and weights from N(0, 0.01^2). Images come as they are: for
    torchvision's own weights, ported from TensorFlow, normalise with mean and deviation 0.5
    (its ``transform_input``).

    Args:
        dropout: Probability that a feature before the classifier is dropped.
        auxiliary_dropout: Probability that a feature before the classifier of an auxiliary head is dropped.
        stem: As in `GoogLeNet`.
        num_classes: Width of each output.
        in_channels: Channels of the input.
    """

    def __init__(
        self,
        *,
        dropout: float = 0.2,
        auxiliary_dropout: float = 0.7,
        stem: Literal["imagenet", "small"] = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__(
            kernel=3,
            lrn=False,
            batch_norm=1e-3,
            last_pool=2,
            dropout=dropout,
            auxiliary_dropout=auxiliary_dropout,
            stem=stem,
            num_classes=num_classes,
            in_channels=in_channels,
        )

    def _initialise(self, module: nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)

    @property
    def torchvision_name(self) -> str | None:
        """``googlenet``; None with the small stem."""
        return "googlenet" if self.stem == "imagenet" else None
