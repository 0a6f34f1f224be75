"""The one surface of all segmentation networks, and what several of them are made of."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convatlas.models.base import Architecture, OnBackbone
from convatlas.models.classification.classifier import Classifier
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.outputs import ClassifierOutput

ResidualBackbone = ResNet | CifarResNet


class Segmenter(OnBackbone):
    """A network that maps images (N, in_channels, H, W) float32 to class logits of every pixel.

    They are (N, num_classes, H, W), or smaller where the network has no padding: then they are of the image's central
    part. In training, a network with an auxiliary head returns a ``ClassifierOutput``; in evaluation none does.
    """

    backbone: Classifier | None
    """The classification network it stands on, without its classifier."""
    carried: ClassVar[tuple[str, ...]] = ("backbone.",)
    renewed: ClassVar[tuple[str, ...]] = ()
    """Starts of the names that the stages of a staged training do not share."""

    border: int = 0
    """Pixels on each side of an image that have no output."""
    size_step: int = 1
    """Distance of the sizes that it takes, in pixels: 1 where it takes all."""

    @property
    def classifier_body(self) -> Architecture | None:
        """The backbone."""
        return self.backbone

    def output_size(self, image_size: int) -> int:
        """Height and width of the output for images of a height and width, in pixels.

        Raises:
            UserError: The network does not take such images.
        """
        return image_size

    def input_size(self, length: int) -> int:
        """The smallest height or width of an image whose output has ``length`` pixels or more."""
        return length

    def convert_backbone_state_dict(self, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the classifier and put the names under ``backbone``."""
        if self.backbone is None:
            raise ValueError(f"{type(self).__name__} has no backbone")
        head = f"{classifier_head(self.backbone)}."
        return {f"backbone.{name}": value for name, value in classifier.items() if not name.startswith(head)}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor | ClassifierOutput:
        """Map images (N, C, H, W) to logits (N, num_classes, H, W)."""


class ResidualSegmenter(Segmenter):
    """A head on the last map of a ResNet, and in training a second, auxiliary one on the map before.

    Attributes:
        classifier: The head; its last layer knows the number of classes.
        aux_classifier: The auxiliary head, or None.
    """

    image_size = 520
    classifier_name = "classifier.4"
    torchvision_family: ClassVar[str | None] = None
    classifier: nn.Sequential
    backbone: ResidualBackbone

    def __init__(self, backbone: ResidualBackbone, *, auxiliary: bool, num_classes: int) -> None:
        super().__init__()
        self.in_channels = backbone.in_channels
        self.num_classes = num_classes
        remove_classifier(backbone)
        self.backbone = backbone
        self.aux_classifier = FCNHead(backbone.num_features // 2, num_classes) if auxiliary else None

    @property
    def torchvision_name(self) -> str | None:
        """``fcn_resnet50``, ``deeplabv3_resnet101`` and so on; None where torchvision has no such network."""
        name = self.backbone.torchvision_name
        known = name in ("resnet50", "resnet101") and self.backbone.dilation == 4
        return f"{self.torchvision_family}_{name}" if known and self.torchvision_family else None

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last convolution of both heads by a new one with ``num_classes`` outputs."""
        self.num_classes = num_classes
        for head in (self.classifier, self.aux_classifier):
            if head is not None:
                head[-1] = nn.Conv2d(cast(nn.Conv2d, head[-1]).in_channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor | ClassifierOutput:
        """Map images (N, C, H, W) to logits (N, num_classes, H, W)."""
        maps = self.backbone.feature_maps(x)
        logits = upsampled(self.scores(maps), x)
        if not self.training or self.aux_classifier is None:
            return logits
        return ClassifierOutput(logits, (upsampled(self.aux_classifier(maps[self.backbone.stages[-2]]), x),))

    def scores(self, maps: Mapping[str, Tensor]) -> Tensor:
        """Map the backbone's feature maps to class scores (N, num_classes, h, w)."""
        out: Tensor = self.classifier(maps[self.backbone.stages[-1]])
        return out


class FCNHead(nn.Sequential):
    """A 3x3 convolution to a quarter of the channels, batch norm, and the class scores.

    Args:
        in_channels: Channels that enter.
        num_classes: Classes that it tells apart.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        width = in_channels // 4
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(width, num_classes, 1),
        )


def classifier_head(backbone: Classifier) -> str:
    """The module that holds the layers after the last feature map."""
    return backbone.classifier_name.partition(".")[0]


def remove_classifier(backbone: Classifier) -> None:
    """Leave out the layers after the last feature map: state dicts then hold only what serves."""
    backbone.set_submodule(classifier_head(backbone), nn.Identity())


def upsampled(logits: Tensor, image: Tensor) -> Tensor:
    """Enlarge logits (N, K, h, w) to the size of an image (N, C, H, W), bilinearly."""
    return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def gaussian_conv(
    in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1, same: bool = True
) -> nn.Conv2d:
    """A convolution that starts from N(0, 0.01^2) and a bias of 0, as VGG's linear layers do; ``same``: it pads."""
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, padding=(kernel - 1) * dilation // 2 if same else 0, dilation=dilation
    )
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def linear_as_convolution(weight: Tensor, bias: Tensor, conv: nn.Conv2d) -> dict[str, Tensor]:
    """Give a convolution the weights of a linear layer over a square map.

    A smaller convolution gets every n-th output, input and tap of it (DeepLab v1, section 3.1).

    Args:
        weight: (outputs, inputs), the inputs being channels of a square map.
        bias: (outputs,).
        conv: The convolution; its weight is (O, I, k, k).

    Returns:
        Its ``weight`` and ``bias``.
    """
    outputs, inputs, side, _ = conv.weight.shape
    whole_side = 7 if side > 1 else 1
    whole = weight.view(len(weight), -1, whole_side, whole_side)
    taps = (whole_side - 1) // max(1, side - 1) if side > 1 else 1
    thinned = whole[:: len(whole) // outputs, :: whole.shape[1] // inputs, ::taps, ::taps]
    return {"weight": thinned.contiguous(), "bias": bias[:: len(whole) // outputs].contiguous()}


def bilinear_kernel(factor: int) -> Tensor:
    """The kernel (k, k), k = 2 factor, with which a transposed convolution enlarges bilinearly (FCN, section 3.3)."""
    position = torch.arange(2 * factor, dtype=torch.float32)
    weights = 1 - (position - factor + 0.5).abs() / factor
    return weights[:, None] * weights[None, :]
