"""Fully convolutional networks (Long, Shelhamer and Darrell, CVPR 2015)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convatlas.errors import UserError
from convatlas.models.classification.classifier import dropout_layer
from convatlas.models.classification.vgg import VGG
from convatlas.models.segmentation.segmenter import (
    FCNHead,
    ResidualBackbone,
    ResidualSegmenter,
    Segmenter,
    bilinear_kernel,
    gaussian_conv,
    linear_as_convolution,
    remove_classifier,
)


class FCNVGG(Segmenter):
    """FCN-32s, FCN-16s and FCN-8s on VGG-16 (section 4), in the form of the authors' Caffe code.

    fc6 and fc7 are convolutions without padding. Instead, the image is padded by 100 zeros on each side, so that an
    image of any size has a score map. Each map is cropped to the region of the image. Pools round up, as in Caffe. The
    layers of the class scores are initialised with zeros, and upsampling as bilinear interpolation (section 4.2). The
    upsampling layers with factor 2 are trained; the last upsampling is fixed (section 4.3).

    Args:
        backbone: VGG-16 with the ``imagenet`` stem. Its fc6 and fc7 become convolutions of this network.
        stride: Stride of the finest scores in pixels: 32 uses only the last map, 16 adds ``pool4``, 8 also adds
            ``pool3``.
        dropout: Probability that an output of fc6 or fc7 is dropped.
        num_classes: Number of classes, including the background.

    Raises:
        UserError: The VGG has the small stem, so that the input of its fc6 is 1x1.
    """

    image_size = 500
    classifier_name = "score_fr"
    renewed = ("score_pool", "upscore")
    carried = ("backbone.", "fc6", "fc7")
    backbone: VGG
    BORDER: ClassVar[int] = 99
    """Padding of the image in pixels. The first convolution adds one pixel, which gives 100."""
    OFFSETS: ClassVar[dict[int, int]] = {32: 19, 16: 27, 8: 31}
    """Position of the image in the upsampled scores, by stride."""
    SKIPS: ClassVar[dict[int, dict[str, tuple[int, int]]]] = {
        32: {},
        16: {"pool4": (512, 5)},
        8: {"pool4": (512, 5), "pool3": (256, 9)},
    }
    """The skips by stride: their number of channels, and the position of the upsampled scores in them."""

    def __init__(
        self, *, backbone: VGG, stride: Literal[8, 16, 32], dropout: float = 0.5, num_classes: int = 21
    ) -> None:
        super().__init__()
        require_imagenet_stem(backbone)
        self.in_channels = backbone.in_channels
        self.stride = stride
        for layer in backbone.features:
            if isinstance(layer, nn.MaxPool2d):
                layer.ceil_mode = True
        remove_classifier(backbone)
        self.backbone = backbone
        self.fc6 = gaussian_conv(512, 4096, 7, same=False)
        self.fc7 = gaussian_conv(4096, 4096, 1)
        self.dropout = dropout_layer(dropout)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the layers of the class scores and their upsampling by new ones with ``num_classes`` channels."""
        self.num_classes = num_classes
        self.score_fr = zero_scores(4096, num_classes)
        for name, (channels, _) in self.SKIPS[self.stride].items():
            self.add_module(f"upscore_{name}", Upsampling(num_classes, 2, learnt=True))
            self.add_module(f"score_{name}", zero_scores(channels, num_classes))
        self.add_module(f"upscore{self.stride}", Upsampling(num_classes, self.stride, learnt=False))

    def convert_backbone_state_dict(self, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the state dict of a VGG-16 to this network. Its linear layers become convolutions."""
        return super().convert_backbone_state_dict(classifier) | vgg_linear_layers(
            classifier, {"fc6": self.fc6, "fc7": self.fc7}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes, H, W)."""
        height, width = x.shape[-2:]
        maps = self.backbone.feature_maps(F.pad(x, [self.BORDER] * 4))
        scores = self.dropout(F.relu(self.fc6(maps["pool5"]), inplace=True))
        scores = self.score_fr(self.dropout(F.relu(self.fc7(scores), inplace=True)))
        for name, (_, offset) in self.SKIPS[self.stride].items():
            scores = self.get_submodule(f"upscore_{name}")(scores)
            skip = self.get_submodule(f"score_{name}")(maps[name])
            scores = scores + window(skip, offset, scores.shape[-2], scores.shape[-1])
        return window(self.get_submodule(f"upscore{self.stride}")(scores), self.OFFSETS[self.stride], height, width)


class FCN(ResidualSegmenter):
    """An FCN without skips on a dilated ResNet, like torchvision's ``fcn_resnet50`` and ``fcn_resnet101``.

    With one of torchvision's ResNets and ``output_stride: 8``, parameter names and outputs are those of torchvision.

    Args:
        backbone: A ResNet.
        auxiliary: Whether training uses an auxiliary head on the map before the last.
        num_classes: Number of classes, including the background.
    """

    torchvision_family = "fcn"

    def __init__(self, *, backbone: ResidualBackbone, auxiliary: bool = True, num_classes: int = 21) -> None:
        super().__init__(backbone, auxiliary=auxiliary, num_classes=num_classes)
        self.classifier = FCNHead(backbone.num_features, num_classes)


class Upsampling(nn.ConvTranspose2d):
    """A transposed convolution that is initialised as bilinear interpolation.

    Args:
        channels: Number of input and output channels.
        factor: Factor of the upsampling. The side of the kernel is twice the factor.
        learnt: Whether the layer is trained and may mix channels. Otherwise it is fixed, with one kernel per channel.
    """

    def __init__(self, channels: int, factor: int, *, learnt: bool) -> None:
        super().__init__(channels, channels, 2 * factor, factor, bias=False, groups=1 if learnt else channels)
        with torch.no_grad():
            self.weight.copy_(bilinear_kernel(factor))
            if learnt:
                self.weight.mul_(torch.eye(channels)[:, :, None, None])
        self.weight.requires_grad_(learnt)


def zero_scores(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Create a 1x1 convolution to class scores with weights and biases of zero (section 4.2)."""
    conv = nn.Conv2d(in_channels, num_classes, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def vgg_linear_layers(classifier: Mapping[str, Tensor], layers: Mapping[str, nn.Conv2d]) -> dict[str, Tensor]:
    """Convert the linear layers in the state dict of a VGG for convolutions named ``fc6…`` and ``fc7…``.

    Layers that are not in the state dict are left out.
    """
    carried: dict[str, Tensor] = {}
    for name, conv in layers.items():
        source = {"fc6": "classifier.0", "fc7": "classifier.3"}[name[:3]]
        if f"{source}.weight" in classifier:
            both = linear_as_convolution(classifier[f"{source}.weight"], classifier[f"{source}.bias"], conv)
            carried |= {f"{name}.{part}": value for part, value in both.items()}
    return carried


def require_imagenet_stem(backbone: VGG) -> None:
    """Refuse a VGG whose fc6 cannot become a convolution over 7x7.

    Raises:
        UserError: The VGG has the small stem.
    """
    if backbone.stem != "imagenet":
        raise UserError(f"model.net.backbone.stem={backbone.stem}: expected imagenet, whose fc6 reads 7 x 7")


def window(x: Tensor, start: int, height: int, width: int) -> Tensor:
    """Crop a map (N, C, H, W) to (N, C, height, width), from row and column ``start``."""
    return x[:, :, start : start + height, start : start + width]
