"""What a loader yields and a task receives."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images with their labels.

    Attributes:
        images: (N, C, H, W), uint8 as loaded, float32 normalised once on the device.
        labels: Class of each image, (N,) int64.
        indices: Position of each image in its split, (N,) int64.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class ViewBatch(NamedTuple):
    """Several views of each image, for the papers' test protocols.

    Attributes:
        images: For each of N images its views, in stacks (V, C, h, w) of one size each; types as in ``Batch``.
        labels: Class of each image, (N,) int64.
        indices: Position of each image in its split, (N,) int64.
    """

    images: list[list[Tensor]]
    labels: Tensor
    indices: Tensor
