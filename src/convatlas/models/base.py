"""Base classes of all networks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


class Architecture(nn.Module, ABC):
    """A network over a list of classes.

    Attributes:
        num_classes: Number of classes.
        in_channels: Channels of the input.
    """

    image_size: int = 224
    """Height and width of the paper's images, in pixels."""
    classifier_name: ClassVar[str] = "fc"
    """The layer that knows the number of classes, as it is called in the state dict."""
    background_outputs: ClassVar[int] = 0
    """Outputs of that layer that stand for no class of the list."""
    unnamed_settings: Mapping[str, str] = {}
    """Arguments that change what weights mean, but neither their names nor their shapes; with their values."""
    num_classes: int
    in_channels: int

    @property
    def torchvision_name(self) -> str | None:
        """Name of the torchvision network whose weights fit; None if there is none."""
        return None

    @abstractmethod
    def reset_classifier(self, num_classes: int) -> None:
        """Replace the layers that depend on the number of classes by newly initialised ones."""


class OnBackbone(Architecture):
    """A network that stands on a classification network, and can start from its weights."""

    carried: ClassVar[tuple[str, ...]]
    """Starts of the names whose tensors a trained classification network brings."""

    @property
    @abstractmethod
    def classifier_body(self) -> Architecture | None:
        """The classification network without its unused layers; None if there is none."""

    @abstractmethod
    def convert_backbone_state_dict(self, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the state dict of a classification network to the names and shapes of this network."""
