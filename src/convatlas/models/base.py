"""Base classes of all networks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn


class Architecture(nn.Module, ABC):
    """A network that predicts classes.

    Attributes:
        num_classes: Number of classes.
        in_channels: Number of channels of the input.
    """

    image_size: int = 224
    """Height and width of the paper's images, in pixels."""
    classifier_name: ClassVar[str] = "fc"
    """Name, in the state dict, of the layer whose outputs are the classes."""
    background_outputs: ClassVar[int] = 0
    """Number of outputs of that layer that precede those of the classes and belong to the background."""
    unnamed_settings: Mapping[str, str] = {}
    """Arguments, with their values, that change the meaning of the weights but neither their names nor their shapes."""
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
    """A network with a classification network as its backbone, from whose weights it can be initialised."""

    carried: ClassVar[tuple[str, ...]]
    """Prefixes of the names of tensors that are loaded from a trained classification network."""

    @property
    @abstractmethod
    def classifier_body(self) -> Architecture | None:
        """The classification network without its unused layers; None if there is none."""

    @abstractmethod
    def convert_backbone_state_dict(self, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the state dict of a classification network to the names and shapes of this network."""
