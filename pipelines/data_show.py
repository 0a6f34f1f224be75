"""Draw a grid of training images, as stored and as augmented in the first epochs.

    convatlas data show data=imagefolder data.root=/data/birds augment=trivial_augment output=birds.png

Takes the overrides of `train`; the images pass through the loader and augmentation of the training.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image, ImageDraw, ImageFont
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from convatlas.cli import execute
from convatlas.data.classification.module import ClassificationDataModule, build_classification_data
from convatlas.errors import UserError
from convatlas.utils.console import print_fields

CELL = 128
"""Side of a picture in the grid, in pixels; smaller images are enlarged without smoothing."""
MARGIN, LABEL = 6, 18
"""Pixels between pictures, and height of a line of text."""


def data_show(config: DictConfig) -> dict[str, Any]:
    """Draw the grid: one row per sample, first as stored, then as augmented in each epoch.

    Args:
        config: Composed from ``conf/data_show.yaml``.

    Returns:
        ``output``, the picture's path, and ``samples``: path and class of each row.

    Raises:
        UserError: The data cannot be read, ``output`` cannot be written, or an odd number of samples cannot be mixed.
    """
    data = build_classification_data(config.data)
    count = min(config.samples, data.num_samples("train"))
    if data.augment.mix is not None and count % 2:
        raise UserError(f"samples={count}: augment.mix takes pairs, expected an even number")
    indices = np.arange(count) * data.num_samples("train") // count
    columns = [[_cell(data.load("train", int(index))) for index in indices]]
    columns += [[_cell(image) for image in _shown(data, indices, epoch)] for epoch in range(config.epochs)]
    names = [data.class_list.names[data.sources["train"].labels[data.indices["train"][index]]] for index in indices]
    picture = _grid(columns, names, ["stored", *(f"epoch {epoch + 1}" for epoch in range(config.epochs))])
    try:
        picture.save(config.output)
    except (OSError, ValueError) as error:
        raise UserError(f"output={config.output}: cannot be written as a picture ({error})") from error
    samples = [
        {"path": data.path("train", int(index)), "class": name} for index, name in zip(indices, names, strict=True)
    ]
    return {"output": config.output, "samples": samples}


def _shown(data: ClassificationDataModule, indices: Any, epoch: int) -> Tensor:
    """The augmented samples of an epoch, (N, C, H, W) uint8."""
    loader = data.train_dataloader()
    loader.plan = lambda: (epoch, [indices])
    images = data.on_after_batch_transfer(next(iter(loader)), 0).images
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))
    pixels: Tensor = (images * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
    return pixels


def _cell(image: Tensor) -> Image.Image:
    picture: Image.Image = TF.to_pil_image(image).convert("RGB")
    scale = CELL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)


def _grid(columns: list[list[Image.Image]], names: list[str], titles: list[str]) -> Image.Image:
    step = CELL + MARGIN
    grid = Image.new("RGB", (MARGIN + len(columns) * step, LABEL + MARGIN + len(names) * (step + LABEL)), color="white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(13)
    for column, (title, cells) in enumerate(zip(titles, columns, strict=True)):
        left = MARGIN + column * step
        draw.text((left, 2), title, fill="black", font=font)
        for row, cell in enumerate(cells):
            top = LABEL + MARGIN + row * (step + LABEL)
            grid.paste(cell, (left + (CELL - cell.width) // 2, top + (CELL - cell.height) // 2))
    for row, name in enumerate(names):
        draw.text((MARGIN, LABEL + MARGIN + row * (step + LABEL) + CELL), name, fill="dimgrey", font=font)
    return grid


def show(result: Mapping[str, Any]) -> None:
    """Print the path of the picture."""
    print_fields({"picture": str(Path(result["output"])), "samples": f"{len(result['samples'])} training images"})


if __name__ == "__main__":
    types = {"seed": NonNegativeInt, "samples": PositiveInt, "epochs": PositiveInt, "output": str}
    execute(data_show, show, types)
