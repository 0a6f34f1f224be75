"""What a loader yields and a task receives."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Images with their labels.

    Attributes:
        images: (N, C, H, W), uint8 as loaded, float32 normalised once on the device; channels last in memory.
        labels: Class of each image, (N,) int64.
        indices: Position of each image in its split, (N,) int64.
        draws: What was drawn for the augmentation on the device, (N, K) float32; None where there is none.
        mixed_labels: Class of the image that was mixed into each, (N,) int64; None where none was.
        label_weights: Share of each image's own label, (N,) float32, the rest is ``mixed_labels``'; None likewise.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    draws: Tensor | None = None
    mixed_labels: Tensor | None = None
    label_weights: Tensor | None = None


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
