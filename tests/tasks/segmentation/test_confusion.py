"""The metrics of segmentation against NumPy, with void pixels and absent classes, on one rank and on three."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.data.batch import IGNORE_INDEX
from convatlas.tasks.segmentation.confusion import PixelConfusion, class_ious, segmentation_scores
from tests.gates import PATIENCE
from tests.tasks.numpy_reference import reference

NUM_CLASSES = 6


def images(count: int = 9) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Predictions and labels of images of several sizes; class 4 is only predicted, class 5 not even that."""
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        shape = (8 + number, 12)
        labels = generator.choice([0, 0, 1, 2, 3, IGNORE_INDEX], shape)
        classes = np.where(generator.random(shape) < 0.6, labels % IGNORE_INDEX, generator.integers(0, 5, shape))
        found.append((torch.from_numpy(classes), torch.from_numpy(labels)))
    return found


def expected() -> dict[str, float]:
    classes, labels = (
        np.concatenate([each.numpy().ravel() for each in column]) for column in zip(*images(), strict=True)
    )
    return reference(classes, labels, NUM_CLASSES, IGNORE_INDEX)


def test_one_rank_equals_numpy() -> None:
    confusion = PixelConfusion(NUM_CLASSES)
    for classes, labels in images():
        confusion.update(classes, labels, torch.ones(labels.shape) * (labels != IGNORE_INDEX))
    scores = {name: float(value) for name, value in confusion.scores().items()}
    assert scores.pop("loss") == 1
    assert scores == pytest.approx(expected(), abs=1e-6)


RANK = """
import sys, json
import torch, torch.distributed as dist
from tests.tasks.segmentation.test_confusion import NUM_CLASSES, IGNORE_INDEX, images
from convatlas.tasks.segmentation.confusion import PixelConfusion

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
confusion = PixelConfusion(NUM_CLASSES)
for classes, labels in images()[rank::3][: None if rank else 1] + (images()[3::3] if rank == 0 else []):
    confusion.update(classes, labels, torch.ones(labels.shape) * (labels != IGNORE_INDEX))
scores = {name: float(value) for name, value in confusion.scores().items()}
print(json.dumps(scores))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_three_ranks_equal_numpy(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), store], stdout=subprocess.PIPE, text=True)
        for rank in range(3)
    ]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0, 0]
    found = [eval(output.splitlines()[-1]) for output in outputs]  # noqa: S307  what the script above printed
    for scores in found:
        assert scores.pop("loss") == 1
        assert scores == pytest.approx(expected(), abs=1e-6)


def test_classes_that_are_not_there() -> None:
    counts = torch.tensor([[8, 2, 0], [0, 0, 0], [0, 0, 0]])
    assert class_ious(counts).tolist()[:2] == [0.8, 0.0]  # predicted and not there
    assert class_ious(counts)[2].isnan()  # neither
    assert float(segmentation_scores(counts)["mean_iou"]) == pytest.approx(0.4)
    assert float(segmentation_scores(counts)["mean_accuracy"]) == pytest.approx(0.8)


def test_nothing_but_void_is_no_number() -> None:
    confusion = PixelConfusion(3)
    confusion.update(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), IGNORE_INDEX))
    assert all(value.isnan() for value in confusion.scores().values())
