"""What all networks have in common, whatever they say of an image."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn


class Architecture(nn.Module, ABC):
    """A network over a list of classes.

    Attributes:
        num_classes: Classes that it tells apart.
        in_channels: Channels of the input.
    """

    image_size: int = 224
    """Height and width of the paper's images, in pixels."""
    classifier_name: ClassVar[str] = "fc"
    """The layer that knows the number of classes, as it is called in the state dict."""
    num_classes: int
    in_channels: int

    @property
    def torchvision_name(self) -> str | None:
        """What torchvision calls the network whose weights fit; None where it has none."""
        return None

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """Replace what depends on the number of classes by newly initialised layers with ``num_classes`` outputs."""
