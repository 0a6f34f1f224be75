"""Output type of networks with auxiliary heads."""

from typing import NamedTuple

from torch import Tensor


class ClassifierOutput(NamedTuple):
    """The outputs in training of a network with auxiliary heads; in evaluation it returns its logits only.

    Attributes:
        logits: (N, num_classes) float; of a segmentation network (N, num_classes, H, W).
        auxiliary: Logits of the auxiliary heads, from the input to the output, each as ``logits``.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
