"""DeepLab v1 and v2 (Chen et al., ICLR 2015; TPAMI 2018), v3 (2017) and v3+ (ECCV 2018)."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Len
from torch import Tensor, nn
from torch.nn import functional as F

from convatlas.errors import UserError
from convatlas.models.classification.classifier import dropout_layer
from convatlas.models.classification.vgg import VGG
from convatlas.models.segmentation.fcn import require_imagenet_stem, vgg_linear_layers
from convatlas.models.segmentation.segmenter import (
    ResidualBackbone,
    ResidualSegmenter,
    Segmenter,
    gaussian_conv,
    remove_classifier,
    upsampled,
)


class DeepLabVGG(Segmenter):
    """DeepLab v1 and v2 on VGG-16: fc6 is an atrous convolution, or several of different rates (ASPP).

    One rate gives v1: 7x7 at rate 4 corresponds to the original fc6, and 3x3 at rate 12 with 1,024 channels is LargeFOV
    (v1, section 5.2). Several rates give the ASPP of v2: each rate has its own fc6, fc7 and scores, and the scores are
    added (v2, figure 7b). The scores are upsampled bilinearly.

    Args:
        backbone: VGG-16 with the ``imagenet`` stem and ``output_stride: 8``.
        rates: Dilation of each fc6.
        kernel: Side of the kernel of fc6: 7, 4 or 3. A kernel below 7 takes every second or third position of a trained
            fc6.
        width: Number of channels of fc6 and fc7. Below 4096, they take every n-th channel of trained layers.
        dropout: Probability that an output of fc6 or fc7 is dropped.
        num_classes: Number of classes, including the background.

    Raises:
        UserError: The VGG has the small stem, or an output stride other than 8.
    """

    image_size = 321
    classifier_name = "fc8_0"
    carried = ("backbone.", "fc6", "fc7")
    backbone: VGG

    def __init__(
        self,
        *,
        backbone: VGG,
        rates: Annotated[list[int], Len(1)],
        kernel: int = 3,
        width: int = 1024,
        dropout: float = 0.5,
        num_classes: int = 21,
    ) -> None:
        super().__init__()
        require_imagenet_stem(backbone)
        if backbone.dilation != 4:
            raise UserError("model.net.backbone.output_stride: expected 8, from which DeepLab's rates are counted")
        self.in_channels = backbone.in_channels
        remove_classifier(backbone)
        self.backbone = backbone
        self.branches = len(rates)
        self.width = width
        for index, rate in enumerate(rates):
            self.add_module(f"fc6_{index}", gaussian_conv(512, width, kernel, dilation=rate))
            self.add_module(f"fc7_{index}", gaussian_conv(width, width, 1))
        self.dropout = dropout_layer(dropout)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the scores by new ones of ``num_classes`` channels."""
        self.num_classes = num_classes
        for index in range(self.branches):
            self.add_module(f"fc8_{index}", gaussian_conv(self.width, num_classes, 1))

    def convert_backbone_state_dict(self, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the state dict of a VGG-16 to this network; see ``linear_as_convolution`` for fc6 and fc7."""
        layers = {
            name: layer
            for name, layer in self.named_children()
            if name.startswith(("fc6", "fc7")) and isinstance(layer, nn.Conv2d)
        }
        return super().convert_backbone_state_dict(classifier) | vgg_linear_layers(classifier, layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes, H, W)."""
        features = self.backbone.forward_features(x)
        return upsampled(_sum([self._scores(features, index) for index in range(self.branches)]), x)

    def _scores(self, features: Tensor, index: int) -> Tensor:
        hidden = features
        for layer in (f"fc6_{index}", f"fc7_{index}"):
            hidden = self.dropout(F.relu(self.get_submodule(layer)(hidden), inplace=True))
        scores: Tensor = self.get_submodule(f"fc8_{index}")(hidden)
        return scores


class DeepLabV2(Segmenter):
    """DeepLab v2 on a ResNet: the sum of class scores from 3x3 convolutions of several rates (section 4.1.2).

    Args:
        backbone: A ResNet. The paper uses ResNet-101 with ``output_stride: 8``.
        rates: Dilation of each convolution. The default is the paper's ASPP-L.
        num_classes: Number of classes, including the background.
    """

    image_size = 321
    classifier_name = "classifier.0"
    backbone: ResidualBackbone

    def __init__(
        self,
        *,
        backbone: ResidualBackbone,
        rates: Annotated[Sequence[int], Len(1)] = (6, 12, 18, 24),
        num_classes: int = 21,
    ) -> None:
        super().__init__()
        self.in_channels = backbone.in_channels
        remove_classifier(backbone)
        self.backbone = backbone
        self.rates = tuple(rates)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the scores by new ones of ``num_classes`` channels."""
        self.num_classes = num_classes
        width = self.backbone.num_features
        self.classifier = nn.ModuleList(gaussian_conv(width, num_classes, 3, dilation=rate) for rate in self.rates)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes, H, W)."""
        features = self.backbone.forward_features(x)
        return upsampled(_sum([branch(features) for branch in self.classifier]), x)


class DeepLabV3(ResidualSegmenter):
    """DeepLab v3: atrous spatial pyramid pooling with batch norm and an image-wide feature (section 3.3).

    With one of torchvision's ResNets, ``output_stride: 8``, rates 12, 24, 36 and no multi-grid, parameter names and
    outputs are those of torchvision's ``deeplabv3_resnet50`` and ``deeplabv3_resnet101``.

    Args:
        backbone: A ResNet. The paper uses ``output_stride`` 16 in training and 8 in evaluation.
        rates: Dilations of the pyramid: (6, 12, 18) at output stride 16, twice these at 8 (section 4.2).
        multi_grid: Factors of the dilations of the blocks in the last stage; (1, 2, 4) in the paper.
        auxiliary: Whether training uses an auxiliary head on the map before the last, as in torchvision.
        num_classes: Number of classes, including the background.

    Raises:
        UserError: The number of factors in ``multi_grid`` is not the number of blocks of the last stage.
    """

    image_size = 513
    torchvision_family = "deeplabv3"

    def __init__(
        self,
        *,
        backbone: ResidualBackbone,
        rates: Sequence[int] = (6, 12, 18),
        multi_grid: Sequence[int] | None = None,
        auxiliary: bool = False,
        num_classes: int = 21,
    ) -> None:
        super().__init__(backbone, auxiliary=auxiliary, num_classes=num_classes)
        self.is_torchvisions = tuple(rates) == (12, 24, 36) and multi_grid is None
        if multi_grid is not None:
            _spread(backbone, multi_grid)
        self.classifier = nn.Sequential(
            ASPP(backbone.num_features, rates), *_conv_bn(256, 256, 3), nn.Conv2d(256, num_classes, 1)
        )

    @property
    def torchvision_name(self) -> str | None:
        """``deeplabv3_resnet50`` or ``deeplabv3_resnet101``; None for other rates and multi-grid."""
        return super().torchvision_name if self.is_torchvisions else None


class DeepLabV3Plus(ResidualSegmenter):
    """DeepLab v3+: v3 as the encoder, and a decoder that also uses the first stage (section 3.1).

    Args:
        backbone: A ResNet. The paper uses ``output_stride: 16``.
        rates: Dilations of the pyramid: (6, 12, 18) at output stride 16, twice these at 8.
        multi_grid: Factors of the dilations of the blocks in the last stage.
        auxiliary: Whether training uses an auxiliary head on the map before the last.
        num_classes: Number of classes, including the background.

    Raises:
        UserError: The number of factors in ``multi_grid`` is not the number of blocks of the last stage.
    """

    image_size = 513
    classifier_name = "classifier.6"

    def __init__(
        self,
        *,
        backbone: ResidualBackbone,
        rates: Sequence[int] = (6, 12, 18),
        multi_grid: Sequence[int] | None = None,
        auxiliary: bool = False,
        num_classes: int = 21,
    ) -> None:
        super().__init__(backbone, auxiliary=auxiliary, num_classes=num_classes)
        if multi_grid is not None:
            _spread(backbone, multi_grid)
        self.aspp = ASPP(backbone.num_features, rates)
        detail = backbone.num_features >> (len(backbone.stages) - 1)  # stages double their channels
        self.low_level = nn.Sequential(*_conv_bn(detail, 48, 1))
        self.classifier = nn.Sequential(
            *_conv_bn(256 + 48, 256, 3), *_conv_bn(256, 256, 3), nn.Conv2d(256, num_classes, 1)
        )

    def scores(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Map the backbone's feature maps to class scores (N, num_classes, h, w) of the first stage's size."""
        detail = self.low_level(maps[self.backbone.stages[0]])
        features = upsampled(self.aspp(maps[self.backbone.stages[-1]]), detail)
        out: Tensor = self.classifier(torch.cat([features, detail], dim=1))
        return out


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (v3, figure 5).

    It has a 1x1 convolution, several dilated 3x3 convolutions and image pooling, joined by a 1x1 convolution.

    Args:
        in_channels: Number of channels of the input.
        rates: Dilations of the 3x3 convolutions.
        width: Number of channels of each part and of the output.
    """

    def __init__(self, in_channels: int, rates: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Sequential(*_conv_bn(in_channels, width, 1))])
        for rate in rates:
            self.convs.append(nn.Sequential(*_conv_bn(in_channels, width, 3, dilation=rate)))
        self.convs.append(ImagePooling(in_channels, width))
        self.project = nn.Sequential(*_conv_bn(len(self.convs) * width, width, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H, W)."""
        out: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], dim=1))
        return out


class ImagePooling(nn.Sequential):
    """A global average pool with a 1x1 convolution, whose result is repeated at every position."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), *_conv_bn(in_channels, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, width, H, W)."""
        return upsampled(super().forward(x), x)  # type: ignore[no-untyped-call]


def _conv_bn(in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2 * dilation, dilation=dilation, bias=False)
    return conv, nn.BatchNorm2d(out_channels), nn.ReLU()


def _spread(backbone: ResidualBackbone, multi_grid: Sequence[int]) -> None:
    """Multiply the dilations of the last stage's blocks (v3, section 3.2.1)."""
    blocks = list(backbone.get_submodule(backbone.stages[-1]).children())
    if len(blocks) != len(multi_grid):
        raise UserError(
            f"model.net.multi_grid={list(multi_grid)}: expected {len(blocks)} numbers, one for each block of the last "
            "stage"
        )
    for block, factor in zip(blocks, multi_grid, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                rate = backbone.dilation * factor
                layer.padding, layer.dilation = (rate, rate), (rate, rate)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
