"""VGG (Simonyan and Zisserman, "Very Deep Convolutional Networks", ICLR 2015)."""

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.models.classification.classifier import FullyConnectedClassifier, dropout_layer


class DilatedMaxPool2d(nn.MaxPool2d):
    """Replaces a 2x2 max pool of stride 2 by one of stride 1; every second output is that of the original pool.

    The input is padded with zeros on the right and at the bottom. They do not change a maximum, because the input, the
    output of a ReLU, is not negative.

    Args:
        dilation: Distance of the two rows, and of the two columns, of the pool.
    """

    dilation: int

    def __init__(self, dilation: int) -> None:
        super().__init__(2, stride=1, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Map a non-negative (N, C, H, W) to (N, C, H, W)."""
        out: Tensor = super().forward(F.pad(x, (0, self.dilation, 0, self.dilation)))
        return out


class VGG(FullyConnectedClassifier):
    """The six configurations of table 1, from 11 to 19 layers with weights.

    For A, B, D and E with the ``imagenet`` stem, parameter names and outputs are those of torchvision's
    ``vgg11``, ``vgg13``, ``vgg16`` and ``vgg19``, and of their ``_bn`` forms.

    In the paper, N(0, 0.1^2) is sufficient only for A; deeper networks are initialised from a trained A. Here all
    networks are trained from scratch: convolutions have He's normal initialisation, linear layers N(0, 0.01^2), biases
    0. He's initialisation uses the fan-in, which preserves the scale of the signal up to the classifier. The fan-out,
    which torchvision uses, reduces it to a sixteenth in D.

    Args:
        configuration: A column of table 1. ``A-LRN`` has AlexNet's normalisation after the first ReLU. ``C`` has 1x1
            convolutions at the end of its last three stages.
        stacked: Whether stages are stacks of 3x3 convolutions. False replaces each stack by one layer with the same
            receptive field: 5x5 for two layers, as in the comparison of section 4.1, and 7x7 for three (section 2.3).
        batch_norm: Whether to apply batch norm after each convolution, which the paper does not.
        output_stride: Stride of the last feature map in pixels. With 16 or 8, the last one or two pools have stride 1,
            and the following layers are dilated to keep their receptive fields (DeepLab, section 3.1).
        dropout: Probability that an output of fc6 or fc7 is dropped.
        stem: With ``imagenet``, the input of fc6 is 7x7. With ``small``, it is 1x1, the size of the map of a 32-pixel
            image after five pools. The convolutions are the same.
        num_classes: Number of outputs.
        in_channels: Number of channels of the input.
    """

    WIDTHS: ClassVar[tuple[int, ...]] = (64, 128, 256, 512, 512)
    CONVOLUTIONS: ClassVar[dict[str, tuple[int, ...]]] = {
        "A": (1, 1, 2, 2, 2),
        "A-LRN": (1, 1, 2, 2, 2),
        "B": (2, 2, 2, 2, 2),
        "C": (2, 2, 3, 3, 3),
        "D": (2, 2, 3, 3, 3),
        "E": (2, 2, 4, 4, 4),
    }

    def __init__(
        self,
        *,
        configuration: Literal["A", "A-LRN", "B", "C", "D", "E"],
        stacked: bool = True,
        batch_norm: bool = False,
        output_stride: Literal[8, 16, 32] = 32,
        dropout: float = 0.5,
        stem: Literal["imagenet", "small"] = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.configuration, self.stacked, self.batch_norm, self.stem = configuration, stacked, batch_norm, stem
        self.in_channels = in_channels
        self.features = nn.Sequential()
        self.maps: dict[int, str] = {}
        stride = dilation = 1
        for stage, width in enumerate(self.WIDTHS, 1):
            kernels = [3] * self.CONVOLUTIONS[configuration][stage - 1]
            kernels[2:] = [1 if configuration == "C" else 3 for _ in kernels[2:]]
            for kernel in kernels if stacked else [1 + sum(kernel - 1 for kernel in kernels)]:
                conv = nn.Conv2d(in_channels, width, kernel, padding=kernel // 2 * dilation, dilation=dilation)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
                self.features.append(conv)
                if batch_norm:
                    self.features.append(nn.BatchNorm2d(width))
                self.features.append(nn.ReLU(inplace=True))
                in_channels = width
            if configuration == "A-LRN" and width == 64:
                self.features.append(nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0))
            self.maps[len(self.features) - 1] = f"conv{stage}"
            if stride < output_stride:
                self.features.append(nn.MaxPool2d(2))
                stride *= 2
            else:
                self.features.append(DilatedMaxPool2d(dilation))
                dilation *= 2
            self.maps[len(self.features) - 1] = f"pool{stage}"
        self.dilation = dilation
        side = 7 if stem == "imagenet" else 1
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.num_features = 4096
        self.classifier = nn.Sequential(
            *(_linear(512 * side * side, 4096), nn.ReLU(inplace=True), dropout_layer(dropout)),
            *(_linear(4096, self.num_features), nn.ReLU(inplace=True), dropout_layer(dropout)),
            nn.Identity(),
        )
        self.reset_classifier(num_classes)

    @property
    def torchvision_name(self) -> str | None:
        """``vgg11``, ``vgg13``, ``vgg16`` or ``vgg19``, also with ``_bn``; None if torchvision has no such network."""
        names = {"A": "vgg11", "B": "vgg13", "D": "vgg16", "E": "vgg19"}
        if self.stem != "imagenet" or not self.stacked or self.configuration not in names:
            return None
        return names[self.configuration] + ("_bn" if self.batch_norm else "")

    def reset_classifier(self, num_classes: int) -> None:
        """Replace fc8 by a newly initialised layer with ``num_classes`` outputs; fc6 and fc7 stay."""
        self.num_classes = num_classes
        self.classifier[-1] = _linear(self.num_features, num_classes)


def _linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return layer
