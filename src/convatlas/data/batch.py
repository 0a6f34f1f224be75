"""Batch types, which loaders yield and tasks receive."""

from typing import NamedTuple, Protocol

from torch import Tensor

IGNORE_INDEX = 255
"""The label of a pixel that belongs to no class; it counts neither in losses nor in metrics."""


class Batch(NamedTuple):
    """Images with their labels.

    Attributes:
        images: (N, C, H, W), uint8 as loaded, float32 normalised once on the device; channels last in memory.
        labels: Class of each image, (N,) int64.
        indices: Position of each image in its split, (N,) int64.
        random_parameters: Drawn for the augmentation on the device, (N, K) float32; None if unused.
        mixed_labels: Class of the image that was mixed into each, (N,) int64; None without mixing.
        label_weights: Share of each image's own label, (N,) float32; the rest is that of ``mixed_labels``.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    random_parameters: Tensor | None = None
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


class Views(Protocol):
    """Cuts the views of an image for a test protocol."""

    @property
    def crops(self) -> int:
        """Number of crops of the network's size that cost as much as the views of one image."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """The views of an image, (C, H, W) uint8, in stacks (V, C, h, w) of one size each."""


class SegmentationBatch(NamedTuple):
    """Crops of images with the class of every pixel, for training.

    Attributes:
        images: (N, C, H, W), uint8 as loaded, float32 normalised once on the device; channels last in memory.
        labels: Class of each pixel, (N, H, W), uint8 as loaded, int64 on the device; ``IGNORE_INDEX`` does not count.
        indices: Position of each image in its split, (N,) int64.
        weights: Weight of each pixel in the loss, (N, H, W) float32; None if all have weight 1.
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


class ObjectBatch(NamedTuple):
    """Images of several sizes with their objects; evaluation batches hold no objects.

    Attributes:
        images: (N, C, H, W), zero-padded at the right and bottom; uint8 as loaded, float32 normalised on the device.
        sizes: Height and width of each in the batch.
        stored_sizes: Height and width of each stored image.
        boxes: x0, y0, x1, y1 of each image's objects in pixels of the batch, each (n, 4) float32.
        labels: Their classes, each (n,) int64.
        masks: Their masks, each (n, H, W) uint8 of 0 and 1; None for data without masks.
        indices: Position of each image in its split, (N,) int64.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    stored_sizes: list[tuple[int, int]]
    boxes: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor] | None
    indices: Tensor
