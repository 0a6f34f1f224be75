"""The small network of cuda-convnet (Krizhevsky 2011) for CIFAR-10: three convolutions and one linear layer."""

from typing import Literal

from torch import nn

from convatlas.models.classification.classifier import FullyConnectedClassifier


class CudaConvNet(FullyConnectedClassifier):
    """A network of four layers for the comparisons on CIFAR-10 in AlexNet's paper (figure 1; section 3.3).

    The paper does not describe its network of four layers. This is the most similar public one, ``layers-18pct`` of
    cuda-convnet by the same author. It has 5x5 convolutions of 32, 32 and 64 channels and one linear layer. Each
    convolution is followed by a 3x3 pool with stride 2: the first is a max pool, the others are average pools. Pools
    round up: 32, 16, 8, 4 pixels. For other image sizes, an adaptive average pool gives the 4x4 input of the linear
    layer.

    Weights are initialised from N(0, 1 / fan-in), biases with 0, for both activations. This preserves the scale of the
    signal through tanh, while each ReLU halves its power. So the initialisation does not favour the ReLU.

    Args:
        activation: ``relu``, or ``tanh`` as in figure 1.
        lrn: Whether to apply AlexNet's normalisation after the first two activations (section 3.3).
        num_classes: Number of outputs.
        in_channels: Number of channels of the input.
    """

    image_size = 32
    classifier_name = "classifier.0"
    num_features = 64 * 4 * 4

    def __init__(
        self,
        *,
        activation: Literal["relu", "tanh"] = "relu",
        lrn: bool = False,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()

        def act() -> nn.Module:
            return nn.ReLU(inplace=True) if activation == "relu" else nn.Tanh()

        def norm() -> nn.Module:
            return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0) if lrn else nn.Identity()

        self.in_channels = in_channels
        self.maps = {1: "conv1", 3: "pool1", 5: "conv2", 7: "pool2", 9: "conv3", 10: "pool3"}
        self.features = nn.Sequential(
            *(nn.Conv2d(in_channels, 32, 5, padding=2), act(), norm(), nn.MaxPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 32, 5, padding=2), act(), norm(), nn.AvgPool2d(3, 2, ceil_mode=True)),
            *(nn.Conv2d(32, 64, 5, padding=2), act(), nn.AvgPool2d(3, 2, ceil_mode=True)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Sequential(nn.Identity())
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                _initialise(layer)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the linear layer by a newly initialised one with ``num_classes`` outputs."""
        self.num_classes = num_classes
        fc = nn.Linear(self.num_features, num_classes)
        _initialise(fc)
        self.classifier[0] = fc


def _initialise(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
