"""What a loader yields and a task receives."""

from typing import NamedTuple

from torch import Tensor

VOID = 255
"""The label of a pixel that belongs to no class; it counts neither in losses nor in metrics."""


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


class SegmentationBatch(NamedTuple):
    """Crops of images with the class of every pixel, for training.

    Attributes:
        images: (N, C, H, W), uint8 as loaded, float32 normalised once on the device; channels last in memory.
        labels: Class of each pixel, (N, H, W), uint8 as loaded, int64 on the device; ``VOID`` does not count.
        indices: Position of each image in its split, (N,) int64.
        weights: Of each pixel in the loss, (N, H, W) float32; None where all count alike.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    weights: Tensor | None = None


class WholeImageBatch(NamedTuple):
    """Whole images of any sizes with the class of every pixel, for evaluation.

    Attributes:
        images: Each (C, H, W); types as in ``SegmentationBatch``.
        labels: Class of each pixel, each (H, W).
        indices: Position of each image in its split, (N,) int64.
    """

    images: list[Tensor]
    labels: list[Tensor]
    indices: Tensor
