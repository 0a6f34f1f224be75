"""Output type of networks with auxiliary heads."""

from typing import NamedTuple

from torch import Tensor


class ClassifierOutput(NamedTuple):
    """The outputs of a network with auxiliary heads in training. In evaluation, the network returns only its logits.

    Attributes:
        logits: The logits, (N, num_classes) float; (N, num_classes, H, W) for a segmentation network.
        auxiliary: The logits of the auxiliary heads in the order of their layers, with the shape of ``logits``.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
