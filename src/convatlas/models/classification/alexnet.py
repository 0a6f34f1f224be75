"""AlexNet: the network of 2012 with two groups, and the single-tower variant of 2014, as in torchvision."""

from typing import Literal

from torch import nn

from convatlas.models.classification.classifier import FullyConnectedClassifier, dropout_layer


class AlexNet(FullyConnectedClassifier):
    """The network of Krizhevsky et al., "ImageNet Classification with Deep CNNs", NIPS 2012, section 3.

    The two GPUs of the paper are two groups in conv2, conv4 and conv5. The paper's 55x55 map after conv1 requires
    images of 227 pixels; here, images of 224 pixels with a padding of 2 give the same size. For other image sizes, an
    adaptive average pool gives the input size of fc6.

    Local response normalisation has k = 2, n = 5 and beta = 0.75. The formula of section 3.3 multiplies the
    *sum* of squares by alpha = 1e-4; torch divides its alpha by n first, hence 5e-4 in the code.

    Weights are initialised from N(0, 0.01^2), biases with 1 in conv2, conv4, conv5, fc6 and fc7 and with 0 elsewhere
    (section 5).

    Args:
        lrn: Whether to apply local response normalisation after the ReLU of conv1 and conv2 (section 3.3).
        groups: 2, or 1 for the network without groups.
        overlapping_pooling: Whether to pool 3x3 with stride 2 (section 3.4) and not 2x2.
        activation: ``relu`` or, as in the comparison of section 3.1, ``tanh``.
        dropout: Probability that an output of fc6 or fc7 is dropped (section 4.2).
        stem: ``imagenet`` is the paper's 11x11 convolution with stride 4. ``small`` is 5x5 with stride 1 for images of
            32 pixels, whose maps would be too small for three pools after the paper's stem.
        num_classes: Number of outputs.
        in_channels: Number of channels of the input.
    """

    num_features = 4096

    def __init__(
        self,
        *,
        lrn: bool = True,
        groups: Literal[1, 2] = 2,
        overlapping_pooling: bool = True,
        activation: Literal["relu", "tanh"] = "relu",
        dropout: float = 0.5,
        stem: Literal["imagenet", "small"] = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()

        def act() -> nn.Module:
            return nn.ReLU(inplace=True) if activation == "relu" else nn.Tanh()

        def norm() -> nn.Module:
            return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0) if lrn else nn.Identity()

        def pool() -> nn.Module:
            return nn.MaxPool2d(3 if overlapping_pooling else 2, stride=2)

        self.in_channels = in_channels
        self.maps = {1: "conv1", 3: "pool1", 5: "conv2", 7: "pool2", 9: "conv3", 11: "conv4", 13: "conv5", 14: "pool5"}
        side = 6 if stem == "imagenet" else 3
        conv1 = _conv1(in_channels, 96, stem)
        conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=groups)
        conv3 = nn.Conv2d(256, 384, 3, padding=1)
        conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=groups)
        conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=groups)
        fc6 = nn.Linear(256 * side * side, 4096)
        fc7 = nn.Linear(4096, self.num_features)
        self.features = nn.Sequential(
            *(conv1, act(), norm(), pool()),
            *(conv2, act(), norm(), pool()),
            *(conv3, act()),
            *(conv4, act()),
            *(conv5, act(), pool()),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            *(fc6, act(), dropout_layer(dropout)),
            *(fc7, act(), dropout_layer(dropout)),
            nn.Identity(),
        )
        for layer in (conv1, conv2, conv3, conv4, conv5, fc6, fc7):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, 0 if layer in (conv1, conv3) else 1)  # type: ignore[arg-type]
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace fc8 by a newly initialised layer with ``num_classes`` outputs; fc6 and fc7 stay."""
        self.num_classes = num_classes
        fc8 = nn.Linear(self.num_features, num_classes)
        nn.init.normal_(fc8.weight, std=0.01)
        nn.init.zeros_(fc8.bias)
        self.classifier[-1] = fc8


class AlexNetTorchvision(FullyConnectedClassifier):
    """The single-tower network of Krizhevsky, "One weird trick", 2014, as torchvision's ``alexnet``.

    There are no groups and no normalisation, widths differ, and dropout comes before fc6 and fc7. Parameter names and
    outputs are those of torchvision. As in torchvision, weights have torch's default initialisation.

    Args:
        dropout: Probability that an input of fc6 or fc7 is dropped.
        stem: As in `AlexNet`.
        num_classes: Width of the output.
        in_channels: Channels of the input.
    """

    num_features = 4096

    def __init__(
        self,
        *,
        dropout: float = 0.5,
        stem: Literal["imagenet", "small"] = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()

        def relu() -> nn.Module:
            return nn.ReLU(inplace=True)

        self.in_channels = in_channels
        self.maps = {1: "conv1", 2: "pool1", 4: "conv2", 5: "pool2", 7: "conv3", 9: "conv4", 11: "conv5", 12: "pool5"}
        self.stem = stem
        side = 6 if stem == "imagenet" else 3
        self.features = nn.Sequential(
            *(_conv1(in_channels, 64, stem), relu(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), relu(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), relu()),
            *(nn.Conv2d(384, 256, 3, padding=1), relu()),
            *(nn.Conv2d(256, 256, 3, padding=1), relu(), nn.MaxPool2d(3, 2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.classifier = nn.Sequential(
            *(dropout_layer(dropout), nn.Linear(256 * side * side, 4096), relu()),
            *(dropout_layer(dropout), nn.Linear(4096, self.num_features), relu()),
            nn.Identity(),
        )
        self.reset_classifier(num_classes)

    @property
    def torchvision_name(self) -> str | None:
        """``alexnet``; None with the small stem."""
        return "alexnet" if self.stem == "imagenet" else None

    def reset_classifier(self, num_classes: int) -> None:
        """Replace fc8 by a newly initialised layer with ``num_classes`` outputs; fc6 and fc7 stay."""
        self.num_classes = num_classes
        self.classifier[-1] = nn.Linear(self.num_features, num_classes)


def _conv1(in_channels: int, width: int, stem: Literal["imagenet", "small"]) -> nn.Conv2d:
    if stem == "imagenet":
        return nn.Conv2d(in_channels, width, 11, stride=4, padding=2)
    return nn.Conv2d(in_channels, width, 5, padding=2)
