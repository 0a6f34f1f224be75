"""The base class of all segmentation networks, and components that several of them share."""

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

    The logits are (N, num_classes, H, W). A network without padding returns smaller logits, which belong to the
    central part of the image. A network with an auxiliary head returns a ``ClassifierOutput`` in training. All
    networks return only the logits in evaluation.
    """

    backbone: Classifier | None
    """The backbone: a classification network without its classifier."""
    carried: ClassVar[tuple[str, ...]] = ("backbone.",)
    renewed: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the names of parameters that the stages of a staged training do not share."""

    border: int = 0
    """Pixels on each side of an image that have no output."""
    size_step: int = 1
    """Step between valid image sizes, in pixels; 1 if all sizes are valid."""

    @property
    def classifier_body(self) -> Architecture | None:
        """The backbone."""
        return self.backbone

    def output_size(self, image_size: int) -> int:
        """Return the side of the output for square images with sides of ``image_size``, in pixels.

        Raises:
            UserError: The network does not accept images of this size.
        """
        return image_size

    def input_size(self, length: int) -> int:
        """Return the smallest height or width of an image for which the output has at least ``length`` pixels."""
        return length

    def convert_backbone_state_dict(self, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the state dict of a classifier: remove its head and add the prefix ``backbone.`` to the names."""
        if self.backbone is None:
            raise ValueError(f"{type(self).__name__} has no backbone")
        head = f"{classifier_head(self.backbone)}."
        return {f"backbone.{name}": value for name, value in classifier.items() if not name.startswith(head)}

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor | ClassifierOutput:
        """Map images (N, C, H, W) to logits (N, num_classes, H, W)."""


class ResidualSegmenter(Segmenter):
    """A segmentation head on the last feature map of a ResNet.

    In training, an optional auxiliary head uses the previous feature map.

    Attributes:
        classifier: The head. Its last layer has one output for each class.
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
        """The name in torchvision, such as ``fcn_resnet50``; None if torchvision has no such network."""
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
        in_channels: Number of input channels.
        num_classes: Number of classes.
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
    """Return the name of the module that contains the layers after the last feature map."""
    return backbone.classifier_name.partition(".")[0]


def remove_classifier(backbone: Classifier) -> None:
    """Remove the layers after the last feature map, so that state dicts contain only parameters in use."""
    backbone.set_submodule(classifier_head(backbone), nn.Identity())


def upsampled(logits: Tensor, image: Tensor) -> Tensor:
    """Enlarge logits (N, K, h, w) to the size of an image (N, C, H, W), bilinearly."""
    return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)


def gaussian_conv(
    in_channels: int, out_channels: int, kernel: int, *, dilation: int = 1, same: bool = True
) -> nn.Conv2d:
    """Create a convolution with weights from N(0, 0.01^2) and zero bias, as in VGG's linear layers.

    With ``same``, padding keeps the size of the map; otherwise there is no padding.
    """
    conv = nn.Conv2d(
        in_channels, out_channels, kernel, padding=(kernel - 1) * dilation // 2 if same else 0, dilation=dilation
    )
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def linear_as_convolution(weight: Tensor, bias: Tensor, conv: nn.Conv2d) -> dict[str, Tensor]:
    """Convert the weights of a linear layer over a square map to those of a convolution.

    A smaller convolution gets every n-th output, input and kernel position (DeepLab v1, section 3.1).

    Args:
        weight: Weight of the linear layer, (outputs, inputs). The inputs are a flattened square map.
        bias: Bias of the linear layer, (outputs,).
        conv: The convolution. Its weight is (O, I, k, k).

    Returns:
        ``weight`` and ``bias`` of the convolution.
    """
    outputs, inputs, side, _ = conv.weight.shape
    whole_side = 7 if side > 1 else 1
    whole = weight.view(len(weight), -1, whole_side, whole_side)
    taps = (whole_side - 1) // max(1, side - 1) if side > 1 else 1
    thinned = whole[:: len(whole) // outputs, :: whole.shape[1] // inputs, ::taps, ::taps]
    return {"weight": thinned.contiguous(), "bias": bias[:: len(whole) // outputs].contiguous()}


def bilinear_kernel(factor: int) -> Tensor:
    """Return the kernel (k, k), k = 2 factor, of a bilinear transposed convolution (FCN, section 3.3)."""
    position = torch.arange(2 * factor, dtype=torch.float32)
    weights = 1 - (position - factor + 0.5).abs() / factor
    return weights[:, None] * weights[None, :]
