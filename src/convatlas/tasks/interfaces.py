"""What tasks ask of images, and what asks of their predictions."""

from collections.abc import Sequence
from typing import Protocol


class Classes(Protocol):
    """The classes of images."""

    @property
    def names(self) -> Sequence[str]:
        """Their names, in the order of the network's outputs."""


class Images(Protocol):
    """What a task asks of a data module."""

    @property
    def name(self) -> str | None:
        """What the data are called."""

    @property
    def task_type(self) -> str:
        """What they are for."""

    @property
    def image_size(self) -> int:
        """Height and width of a training image in pixels."""

    @property
    def in_channels(self) -> int:
        """1 for greyscale, 3 for RGB."""

    @property
    def mean(self) -> Sequence[float]:
        """Mean of each channel that is subtracted, of pixels in [0, 1]."""

    @property
    def std(self) -> Sequence[float]:
        """Standard deviation of each channel that is divided by, likewise."""

    @property
    def class_list(self) -> Classes:
        """The classes."""


class Predicted(Protocol):
    """What an evaluation leaves behind."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""
