import random
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from convatlas.training.callbacks.resume_state import metric_states, random_state, restore_metrics, restore_random_state
from convatlas.training.checkpoint_io import AtomicCheckpointIO, read_checkpoint


def draw() -> tuple[float, float, list[float]]:
    return random.random(), float(np.random.randn()), torch.rand(3).tolist()


def test_random_states_resume_from_a_checkpoint(tmp_path: Path) -> None:
    draw()
    AtomicCheckpointIO().save_checkpoint({"random": random_state()}, tmp_path / "x.ckpt")
    expected = draw()
    draw()
    restore_random_state(read_checkpoint(tmp_path / "x.ckpt")["random"])
    assert draw() == expected


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.top1 = MulticlassAccuracy(3, average="micro")


def test_metrics_go_on_counting(tmp_path: Path) -> None:
    def counted(*batches: tuple[list[int], list[int]]) -> Counting:
        module = Counting()
        for predicted, labels in batches:
            module.top1.update(torch.tensor(predicted), torch.tensor(labels))
        return module

    first, second = ([0, 1, 2, 2], [0, 1, 1, 1]), ([1, 1], [1, 1])
    AtomicCheckpointIO().save_checkpoint(metric_states(counted(first)), tmp_path / "x.ckpt")
    module = counted()
    restore_metrics(module, read_checkpoint(tmp_path / "x.ckpt"))
    module.top1.update(*map(torch.tensor, second))
    assert torch.equal(module.top1.compute(), counted(first, second).top1.compute())
