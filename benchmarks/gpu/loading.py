"""Training from JPEG files on the GPU against training on a batch that is ready."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.gpu.rows import Row, Setting
from benchmarks.gpu.speed import REDUCED, RESNET, SETTINGS, our_rate, ready_batch
from convatlas.config.composition import compose
from convatlas.record.lines import read_metrics
from convatlas.utils.cores import usable_cores
from pipelines.train import train

PHOTOGRAPHS = 512
"""Files that are written; each stands for several images by links."""


def loading(setting: Setting) -> Iterator[Row]:
    """Images per second from 500 × 375 JPEGs, decoded, cropped and augmented, over the rate with ready data."""
    load = REDUCED if setting.reduced else RESNET
    steps = 8 if setting.reduced else 80
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_photographs(root / "images", 64 if setting.reduced else PHOTOGRAPHS, load.images * steps)
        overrides = [
            f"model={load.model}",
            "data=imagefolder",
            f"data.root={root / 'images'}",
            f"data.image_size={load.image_size}",
            f"data.global_batch_size={load.images}",
            f"data.threads={usable_cores()}",
            "augment=random_resized_crop",
            f"trainer.accelerator={setting.accelerator}",
            "trainer.max_epochs=2",
            f"trainer.limit_train_batches={steps}",
            "trainer.limit_val_batches=1",
            "trainer.limit_test_batches=1",
            f"trainer.log_every_n_steps={max(2, steps // 8)}",
        ]
        run = Path(train(compose("train", [*overrides, *SETTINGS, f"run.root={root / 'runs'}"]))["run"])
        lines = [line for line in read_metrics(run / "metrics.jsonl") if "train/images_per_second" in line]
    rate = statistics.median(line["train/images_per_second"] for line in lines[len(lines) // 2 :])
    waited = statistics.median(line["train/data_wait"] for line in lines[len(lines) // 2 :])
    ready = our_rate(load, ready_batch(load, setting), steps, setting)
    yield Row(
        f"{load.model}: from JPEGs against ready data",
        "measured",
        {"images_per_second": rate, "over_ready": rate / ready, "data_wait": waited, "cores": usable_cores()},
        "goal: at least 0.98",
    )


def write_photographs(folder: Path, files: int, links: int) -> None:
    """Write smooth random pictures with some noise as JPEGs, in two classes and three splits.

    Args:
        folder: For ``train``, ``val`` and ``test``.
        files: Pictures of each split that are encoded, at quality 90; ``val`` and ``test`` have a quarter.
        links: Images of ``train``.
    """
    generator = np.random.default_rng(0)
    for split, count, total in (
        ("train", files, links),
        ("val", files // 4, files // 4),
        ("test", files // 4, files // 4),
    ):
        encoded = []
        for number in range(total):
            path = folder / split / f"class{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            if number < count:
                coarse = Image.fromarray(generator.integers(256, size=(12, 16, 3), dtype=np.uint8))
                smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
                noisy = smooth + generator.integers(-12, 13, size=smooth.shape, dtype=np.int16)
                Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
                encoded.append(path)
            else:
                path.hardlink_to(encoded[number % count])
