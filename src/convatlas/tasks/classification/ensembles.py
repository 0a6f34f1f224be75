"""Networks that look at several views of an image, or that are several networks: the papers' test protocols."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convatlas.models.classification.classifier import Classifier


class MultiView(nn.Module):
    """The mean over views of a network's class probabilities (AlexNet, section 4.1; GoogLeNet, section 7).

    With ``fully_convolutional``, a view is classified as a whole: the mean over positions of the class scores, then
    softmax (VGG, section 3.2; ResNet, section 3.4).

    Args:
        net: The network, in evaluation mode when called.
        fully_convolutional: Whether to average class scores over the positions of a view.
    """

    def __init__(self, net: Classifier, *, fully_convolutional: bool) -> None:
        super().__init__()
        self.net = net
        self.fully_convolutional = fully_convolutional

    def forward(self, images: Sequence[Sequence[Tensor]]) -> Tensor:
        """Map the views of N images, stacks (V, C, h, w) for each, to log-probabilities (N, num_classes)."""
        by_shape = defaultdict(list)
        for row, stacks in enumerate(images):
            for stack in stacks:
                by_shape[stack.shape[1:]].append((row, stack))
        views: list[list[Tensor]] = [[] for _ in images]
        for same in by_shape.values():
            scores = self._scores(torch.cat([stack for _, stack in same])).float().log_softmax(dim=1)
            parts = torch.split(scores, [len(stack) for _, stack in same])
            for (row, _), part in zip(same, parts, strict=True):
                views[row].append(part)
        return torch.stack([_log_mean(torch.cat(shown)) for shown in views])

    def _scores(self, x: Tensor) -> Tensor:
        if self.fully_convolutional:
            return self.net.score_map(x).mean(dim=(2, 3))
        logits: Tensor = self.net(x)
        return logits


class Ensemble(nn.Module):
    """The mean of several networks' class probabilities (AlexNet, section 6; GoogLeNet, section 7).

    Args:
        members: Networks over the same classes, in evaluation mode when called.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor | Sequence[Sequence[Tensor]]) -> Tensor:
        """Map what each member takes to log-probabilities (N, num_classes)."""
        return _log_mean(torch.stack([member(images).float().log_softmax(dim=1) for member in self.members]))


def _log_mean(log_probabilities: Tensor) -> Tensor:
    """The logarithm of the mean over the first dimension, without underflow."""
    return log_probabilities.logsumexp(dim=0) - math.log(len(log_probabilities))
