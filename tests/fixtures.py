"""Generated images in the layouts that users have."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_image_folder(
    root: Path, classes: Sequence[str], per_class: int, size: int, splits: Sequence[str] = ("train", "val")
) -> Path:
    """Write ``root/<split>/<class>/<number>.jpg``: each class has a colour of its own, each image its own noise."""
    generator = np.random.default_rng(0)
    for split in splits:
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                noise = generator.integers(0, 100, (size, size + 8, 3))
                noise[..., label % 3] += 120
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number:03d}.jpg", quality=90)
    return root
