"""Base classes of all classification networks."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.outputs import ClassifierOutput


class Classifier(Architecture):
    """A network that maps images (N, in_channels, H, W) float32 to logits (N, num_classes).

    A network with auxiliary heads returns a ``ClassifierOutput`` in training. All networks return only the logits in
    evaluation.

    Attributes:
        num_features: Number of input features of the last linear layer.
        dilation: Dilation of the last feature map: 1, unless the network has an ``output_stride``.
    """

    num_features: int
    dilation: int = 1

    @abstractmethod
    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to feature maps (N, c, h, w) by name, from the input to the output."""

    @abstractmethod
    def score_map(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) of at least the paper's size to class scores by position, (N, num_classes, h, w).

        The network becomes fully convolutional: linear layers are applied as convolutions (OverFeat; VGG, section 3.2).
        """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor | ClassifierOutput:
        """Map images (N, C, H, W) to logits (N, num_classes)."""

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to the last feature map (N, c, h, w)."""
        return list(self.feature_maps(x).values())[-1]


class FullyConnectedClassifier(Classifier):
    """A network of convolutions, an average pool to the input size of fc6, and linear layers: AlexNet and VGG."""

    classifier_name = "classifier.6"
    features: nn.Sequential
    avgpool: nn.AdaptiveAvgPool2d
    classifier: nn.Sequential
    maps: Mapping[int, str]
    """Names of the feature maps by the position of the layer in ``features`` that returns them."""

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to the maps of each stage: ``conv1``, ``pool1``, … ``pool5``."""
        maps = {}
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.maps:
                maps[self.maps[index]] = x
        return maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to the feature map (N, c, h, w) after the last pool."""
        out: Tensor = self.features(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to logits (N, num_classes)."""
        logits: Tensor = self.classifier(self.avgpool(self.forward_features(x)).flatten(1))
        return logits

    def score_map(self, x: Tensor) -> Tensor:
        """Map images (N, C, H, W) to class scores (N, num_classes, h, w): fc6 slides over the last feature map."""
        x = self.forward_features(x)
        side = cast(int, self.avgpool.output_size)
        for layer in self.classifier:
            if isinstance(layer, nn.Linear):
                kernel = layer.weight.view(layer.out_features, -1, side, side)
                x = F.conv2d(x, kernel, layer.bias, dilation=self.dilation)
                side = 1
            else:
                x = layer(x)
        return x


def dropout_layer(probability: float, key: str = "dropout") -> nn.Dropout:
    """Create a dropout layer.

    Args:
        probability: The probability of dropping a value, from 0 to 1.
        key: The name of the argument of the network, for messages.

    Raises:
        UserError: ``probability`` is not between 0 and 1.
    """
    if not 0 <= probability <= 1:
        raise UserError(f"model.net.{key}={probability}: expected a probability, from 0 to 1")
    return nn.Dropout(probability)


def linear_at_each_position(layer: nn.Linear, x: Tensor) -> Tensor:
    """Map a feature map (N, in_features, h, w) to (N, out_features, h, w)."""
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
