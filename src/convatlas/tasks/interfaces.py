"""Interfaces between tasks, data modules and predictions."""

from collections.abc import Sequence
from typing import Protocol


class Classes(Protocol):
    """The classes of images."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the classes, in the order of the network's outputs."""


class Images(Protocol):
    """The interface of a data module that tasks use."""

    @property
    def name(self) -> str | None:
        """Name of the data set."""

    @property
    def task_type(self) -> str:
        """``classification``, ``segmentation`` or ``detection``."""

    @property
    def image_size(self) -> int:
        """Height and width of a training image in pixels."""

    @property
    def in_channels(self) -> int:
        """1 for greyscale, 3 for RGB."""

    @property
    def mean(self) -> Sequence[float]:
        """Mean of each channel for normalisation, of pixels in [0, 1]."""

    @property
    def std(self) -> Sequence[float]:
        """Standard deviation of each channel for normalisation, of pixels in [0, 1]."""

    @property
    def class_list(self) -> Classes:
        """The classes."""


class Predicted(Protocol):
    """The predictions of an evaluation."""

    @property
    def num_samples(self) -> int:
        """Number of samples."""
