"""The commands that wrote the fixtures of this folder; the tests give the same ones again."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

COMMIT = "a11ee17"
FIXTURES = Path(__file__).parent / COMMIT
"""What that commit wrote: a working directory for each command."""

SHORT = ["tracking=none", "data.threads=1", "trainer.log_every_n_steps=1"]
IMAGES = [
    *SHORT,
    "model.net.depth=8",
    "data.global_batch_size=16",
    "trainer.max_epochs=2",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=2",
    "trainer.limit_test_batches=1",
]
"""A ResNet-8 on the embedded images."""
UNET = [
    *SHORT,
    "model=unet_same",
    "model.net.width=4",
    "model.net.levels=2",
    "data.image_size=32",
    "optimizer.reference_batch_size=null",
]
"""A U-Net of 1,769 parameters."""
SCENES = [
    *UNET,
    "data=shapes_masks",
    "data.dataset.train=36",
    "data.dataset.test=4",
    "data.dataset.size=32",
    "data.global_batch_size=4",
    "trainer.max_epochs=3",
]
"""That network on generated scenes."""
LONGER = [*SCENES, "data.dataset.train=200", "trainer.max_epochs=2", "trainer.log_every_n_steps=5"]
"""Runs of 90 steps, in which there is time for a signal."""

TRAIN = {
    "finished_classification": [*IMAGES, "optimizer.algorithm.momentum=0"],
    "finished_segmentation": [*SCENES, "optimizer=adamw"],
    "finished_detection": [
        *SHORT,
        "experiment=quickstart_detection",
        "model.net.backbone._target_=convatlas.models.classification.resnet.CifarResNet",  # of 75,002 parameters
        "model.net.backbone.depth=8",
        "~model.net.backbone.stem",
        "model.net.anchor_sizes=[8,16,24,40]",
        "model.net.channels=8",
        "model.net.head_width=32",
        "model.net.mask_channels=8",
        "data.dataset.train=200",
        "data.dataset.test=1",
        "data.dataset.size=[64,64]",
        "data.image_size=64",
        "data.long_side=64",
        "data.global_batch_size=4",
        "optimizer=sgd",
        "optimizer.learning_rate=0.1",
        "optimizer.reference_batch_size=null",
        "optimizer.algorithm.momentum=0",
        "trainer.max_epochs=6",
        "trainer.log_every_n_steps=10",
    ],
    "unfinished_classification": [*IMAGES, "model.label_smoothing=0.1"],
    "unfinished_mask_folders": [
        *UNET,
        "data=mask_folders",
        "data.root=images",
        "data.global_batch_size=2",
        "optimizer=adamw",
        "schedule=poly",
        "model.net.dropout=0.2",
        "ema.decay=0.9",
        "trainer.max_epochs=3",
    ],
}
"""Overrides of ``convatlas train`` that made each run."""
STOPPED_AFTER = {"unfinished_classification": 4, "unfinished_mask_folders": 7}
"""The optimizer step in which a signal came to these: in the first of two epochs, in the last of three."""

SWEEP = [
    *LONGER,
    "sweep=grid",
    "name=small",
    "~space.batch",
    "space.learning_rate.points=3",
    "objective=[{metric:val/mean_iou,mode:max}]",
    "num_trials=3",
]
"""Overrides of ``convatlas sweep``; one trial is complete, one was stopped, one is not begun."""
STUDY = [
    *LONGER,
    "study=quickstart_depth",
    "study.name=small",
    "study.question='Does batch normalisation help?'",
    "study.overrides=[]",
    "study.arms.plain20={label:without,overrides:['model.net.batch_norm=false']}",
    "study.arms.resnet20={label:with,overrides:['model.net.batch_norm=true']}",
    "study.seeds=[0]",
    "study.metric=test/mean_iou",
]
"""Overrides of ``convatlas study``; one run is finished, one was stopped."""


def convatlas(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``convatlas …`` in a directory, with one thread.

    Args:
        directory: Where the command is given.
        arguments: Its verb and overrides.

    Raises:
        RuntimeError: The command fails.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "convatlas", *arguments],
        cwd=directory,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: status {finished.returncode}\n{finished.stderr}")
    return finished


def write_masks(root: Path) -> None:
    """Write the data set of ``unfinished_mask_folders``: two classes, six images for training, two for each evaluation.

    They are PNG files, whose pixels every version of every decoder reads alike.
    """
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            mask = np.zeros((40, 40), np.uint8)
            top, left = generator.integers(0, 20, 2)
            mask[top : top + 16, left : left + 16] = 1
            image = generator.integers(0, 100, (40, 40, 3)) + 120 * mask[..., None]
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / split / f"{number}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("paper\nink\n", encoding="utf-8")
