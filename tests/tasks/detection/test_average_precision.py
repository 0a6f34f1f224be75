"""COCO's average precision is pycocotools' to the last digit, on one rank and on three."""

import contextlib
import io
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from convatlas.data.detection.objects import Objects, encode_masks
from convatlas.data.sources.shapes import boxes_around, scene
from convatlas.errors import UserError
from convatlas.models.detection.detector import Detection
from convatlas.tasks.detection.average_precision import Detections, average_precision
from convatlas.tasks.detection.predictions import DetectionScore, ObjectPredictions
from tests.gates import PATIENCE

CLASSES = 4
IMAGES = 30


def objects(index: int) -> Objects:
    """A scene's, the first of every fifth image being a crowd; image 7 has none."""
    shown = scene(0, index, (128, 160))
    count = 0 if index == 7 else len(shown.labels)
    crowd = np.zeros(count, np.bool_)
    crowd[:1] = index % 5 == 0
    masks = shown.masks[:count]
    areas = masks.sum(axis=(1, 2)).astype(np.float64)
    return Objects(shown.boxes[:count], shown.labels[:count] % 3, crowd, areas, encode_masks(masks))


def found(index: int) -> Detections:
    """Shifted masks of an image, some with another class or left out, and some that are nothing's; none in image 4."""
    generator = np.random.default_rng([1, index])
    shown = scene(0, index, (128, 160))
    count = 0 if index == 4 else len(shown.labels)
    masks = [
        np.roll(mask, tuple(generator.integers(-6, 7, 2)), (0, 1))
        for mask in np.repeat(shown.masks[:count], 2, axis=0)
        if generator.random() < 0.8
    ]
    masks += [scene(9, index, (128, 160)).masks[0]] * (count > 0)
    stacked = np.stack(masks) if masks else np.zeros((0, 128, 160), np.bool_)
    labels = np.resize(np.append(np.repeat(shown.labels[:count] % 3, 2), 1), len(masks)).astype(np.int64)
    scores = generator.choice(np.linspace(0.05, 1, 12), len(masks)).astype(np.float32)  # with ties
    order = np.argsort(-scores, kind="stable")
    return Detections(index, boxes_around(stacked)[order], labels[order], scores[order], encode_masks(stacked[order]))


def pycocotools_figures(kind: str, indices: Sequence[int]) -> tuple[Any, Any]:
    """Its twelve figures, and its average precision by class."""
    images = [{"id": index + 1, "height": 128, "width": 160} for index in indices]
    truth: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for index in indices:
        true, mine = objects(index), found(index)
        for row in range(len(true.labels)):
            x0, y0, x1, y1 = true.boxes[row].tolist()
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": index + 1,
                    "category_id": int(true.labels[row]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": float(true.areas[row]),
                    "iscrowd": int(true.crowd[row]),
                    "segmentation": (true.masks or [])[row],
                }
            )
        for row in range(len(mine.labels)):
            x0, y0, x1, y1 = mine.boxes[row].tolist()
            one = {"image_id": index + 1, "category_id": int(mine.labels[row]) + 1, "score": float(mine.scores[row])}
            shape = {"bbox": [x0, y0, x1 - x0, y1 - y0]} if kind == "box" else {"segmentation": (mine.masks or [])[row]}
            said.append({**one, **shape})
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO()
        api.dataset = {
            "images": images,
            "annotations": truth,
            "categories": [{"id": label + 1} for label in range(CLASSES)],
            "info": {},
        }
        api.createIndex()
        evaluation = COCOeval(api, api.loadRes(said), "bbox" if kind == "box" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])[:, :, :, 0, -1]
    return evaluation.stats, [precision[:, :, label].mean() for label in range(CLASSES)]


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_every_figure_is_that_of_pycocotools(kind: Any) -> None:
    mine = average_precision([found(i) for i in range(IMAGES)], [objects(i) for i in range(IMAGES)], CLASSES, kind)
    stats, per_class = pycocotools_figures(kind, range(IMAGES))
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    expected = dict(zip(names, stats[:6], strict=True)) | {"mar_100": stats[8]}
    assert 0.1 < expected["map"] < 0.8
    for name, value in expected.items():
        assert mine.metrics[name] == (
            pytest.approx(value, abs=1e-12) if value >= 0 else pytest.approx(np.nan, nan_ok=True)
        )
    np.testing.assert_allclose(mine.per_class, per_class, atol=1e-12)
    assert np.isnan(mine.per_class[3])  # a class that does not occur
    assert (mine.per_class_50[:3] >= mine.per_class[:3]).all()


RANKS = """
import sys
import torch.distributed as dist
from convatlas.tasks.detection.predictions import ObjectPredictions
from tests.tasks.detection.test_average_precision import CLASSES, IMAGES, found, objects

dist.init_process_group("gloo")
predictions = ObjectPredictions("val", CLASSES, objects)
predictions.found = [found(index) for index in range(dist.get_rank(), IMAGES, dist.get_world_size())]
predictions.gather()
sys.stdout.write(repr(predictions.metrics()))
dist.destroy_process_group()
"""


def test_three_ranks_have_the_figures_of_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "3"}
    root = str(Path(__file__).parents[3])
    environment["PYTHONPATH"] = os.pathsep.join([root, environment.get("PYTHONPATH", "")])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANKS], env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(3)
    ]
    printed = [rank.communicate(timeout=PATIENCE)[0] for rank in ranks]
    alone = ObjectPredictions("val", CLASSES, objects)
    alone.found = [found(index) for index in range(IMAGES)]
    alone.gather()
    assert printed == [repr(alone.metrics())] * 3
    assert alone.metrics()["val/mask_map"] == pytest.approx(pycocotools_figures("mask", range(IMAGES))[0][0], abs=1e-12)


def said(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detection:
    return {"boxes": torch.tensor(boxes).view(-1, 4), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}


def truth(index: int) -> Objects:
    """Two objects and a crowd."""
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 90, 90]], np.float32)
    return Objects(boxes, np.array([0, 1, 1]), np.array([False, False, True]), np.array([100.0, 400, 1600]))


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        (said([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 1], [0.9, 0.8]), (2, 0, 0)),
        (said([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 0], [0.9, 0.8]), (1, 1, 1)),  # one object, found twice
        (said([[0, 0, 10, 10]], [1], [0.9]), (0, 2, 1)),  # of another class
        (said([[0, 0, 10, 10]], [0], [0.4]), (0, 2, 0)),  # not certain
        (said([[50, 50, 90, 90], [50, 50, 90, 88]], [1, 1], [0.9, 0.8]), (0, 2, 0)),  # a crowd
        (said([], [], []), (0, 2, 0)),
    ],
)
def test_errors_of_an_image_are_counted(detections: Detection, expected: tuple[int, int, int]) -> None:
    predictions = ObjectPredictions("val", 2, truth)
    predictions.update(5, detections)
    predictions.gather()
    assert predictions.scores == [DetectionScore(5, *expected)]
    assert predictions.worst() == ([0] if sum(expected[1:]) else [])


def test_boxes_alone_have_no_mask_figures() -> None:
    predictions = ObjectPredictions("val", 2, truth)
    predictions.update(0, said([[0, 0, 10, 10]], [0], [0.9]))
    predictions.gather()
    assert set(predictions.precision) == {"box"}
    assert predictions.metrics()["val/box_map"] == 0.5  # one of two classes


def test_nothing_found_is_nothing_right() -> None:
    predictions = ObjectPredictions("val", 2, truth)
    for index in range(2):
        predictions.update(index, said([], [], []))
    predictions.gather()
    assert predictions.metrics()["val/box_map"] == 0.0


def test_no_image_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.on_error=skip: none of the val images can be decoded"):
        ObjectPredictions("val", 2, truth).gather()
