"""What a network with more than one output returns."""

from typing import NamedTuple

from torch import Tensor


class ClassifierOutput(NamedTuple):
    """The outputs in training of a classifier with auxiliary heads; in evaluation it returns its logits only.

    Attributes:
        logits: (N, num_classes) float.
        auxiliary: Logits of the auxiliary heads, from the input to the output, each (N, num_classes) float.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
