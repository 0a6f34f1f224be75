import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from PIL import Image

from convatlas.errors import UnreadableError
from convatlas.tracking.wandb.media import MATRIX_PIXELS, evaluation_media, matrix_picture


def test_a_cell_of_the_matrix_is_as_dark_as_its_share_of_the_row() -> None:
    picture = matrix_picture([[3, 1], [0, 0]])
    half = MATRIX_PIXELS // 2
    assert picture.dtype == np.uint8
    assert picture.shape == (MATRIX_PIXELS, MATRIX_PIXELS)
    assert [int(picture[row, column]) for row in (0, half) for column in (0, half)] == [64, 191, 255, 255]


def test_a_matrix_of_many_classes_has_a_pixel_a_cell() -> None:
    assert matrix_picture(np.eye(1000, dtype=int).tolist()).shape == (1000, 1000)


@pytest.mark.parametrize(
    ("kind", "entry", "views", "caption"),
    [
        (
            "segmented",
            {"mean_iou": 0.5, "pixel_accuracy": 0.9},
            ("image", "label_overlay", "prediction_overlay"),
            "a.jpg: mean IoU 0.500",
        ),
        (
            "worst",
            {"mean_iou": "NaN", "pixel_accuracy": "NaN"},
            ("image", "label_overlay", "prediction_overlay"),
            "a.jpg: ",
        ),
        (
            "detected",
            {"right": 1, "missed": 2, "wrong": 0},
            ("label_overlay", "prediction_overlay"),
            "a.jpg: 1 right, 2 missed, 0 wrong",
        ),
    ],
)
def test_masks_and_objects_are_shown_side_by_side(
    kind: str, entry: dict[str, Any], views: tuple[str, ...], caption: str, tmp_path: Path
) -> None:
    (tmp_path / "test").mkdir()
    for number, name in enumerate(views):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / "test" / f"{name}.png")
    shown = {"path": "a.jpg", **entry, **{name: f"test/{name}.png" for name in views}}
    evaluation: dict[str, Any] = {"split": "test", "classes": ["ant", "bee"], "metrics": {}, kind: [shown]}
    if kind == "detected":
        evaluation |= {"per_class_ap": []}
    else:
        evaluation |= {"pixel_confusion_matrix": [[3, 1], [0, 2]], "per_class_iou": []}
    (tmp_path / "test.json").write_text(json.dumps(evaluation), encoding="utf-8")
    media = evaluation_media(wandb, tmp_path / "test.json")
    (picture,) = media.pop(f"test/{kind}")
    assert picture.image.size == (8 * len(views), 6)
    assert [picture.image.getpixel((8 * number, 0))[0] for number in range(len(views))] == list(range(len(views)))
    assert picture._caption == caption
    assert list(media) == ([] if kind == "detected" else ["test/confusion_matrix"])


@pytest.mark.parametrize("name", ["../secret.png", "{secret}", "test/link.png", "test/absent.png", "a\0b", "a" * 5000])
def test_a_picture_outside_the_folder_of_its_evaluation_is_not_sent(name: str, tmp_path: Path) -> None:
    run, secret = tmp_path / "evaluation", tmp_path / "secret.png"
    (run / "test").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(secret)
    (run / "test" / "link.png").symlink_to(secret)
    shown = {"path": "a.jpg", "label": 0, "prediction": 0, "confidence": 1.0, "label_confidence": 1.0}
    shown["image"] = name.format(secret=secret)
    evaluation = {"split": "test", "classes": ["ant"], "metrics": {}, "samples": [shown], "mistakes": []}
    (run / "test.json").write_text(json.dumps(evaluation), encoding="utf-8")
    with pytest.raises(UnreadableError, match="missing, or not in the folder of its evaluation"):
        evaluation_media(wandb, run / "test.json")
