"""What tasks ask of images, and what asks of their predictions."""

from typing import Protocol


class Images(Protocol):
    """What a task asks of a data module."""

    @property
    def name(self) -> str | None:
        """What the data are called."""

    @property
    def problem(self) -> str:
        """What they are for."""

    @property
    def image_size(self) -> int:
        """Height and width of a training image in pixels."""


class Predicted(Protocol):
    """What an evaluation leaves behind."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""
