"""Predict the classes of images, or of their pixels, with a trained network.

    convatlas predict checkpoint=runs/RUN/checkpoints/best.ckpt images=photos/
    convatlas predict checkpoint=runs/RUN images='scans/*.png' output=scans-predicted

Writes predictions.csv, predictions.json and predictions.html, a page with the pictures; of a segmentation network also
masks/, the class of every pixel with VOC's colours.
"""

import csv
import glob
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pydantic import PositiveInt
from torch import Tensor

from convatlas.cli import execute
from convatlas.console import print_fields, print_table
from convatlas.data.augment import center_crop
from convatlas.data.decode import IMAGE_SUFFIXES, decode_file
from convatlas.data.mask_pictures import class_colours, mask_png, overlay_png
from convatlas.data.thumbnails import thumbnail_png
from convatlas.errors import UserError
from convatlas.jsonio import dumps, write_atomic
from convatlas.models.dense_views import DenseViews
from convatlas.models.segmenter import Segmenter
from convatlas.report.predictions import write_prediction_page
from convatlas.restore import checkpoint_path, load_net
from convatlas.run.checkpoints import KEY, read_run_checkpoint

SHOWN = 10
"""Predictions printed on the terminal."""


def predict(config: DictConfig) -> dict[str, Any]:
    """Classify images, or their pixels, as the checkpoint's network does in evaluation.

    Args:
        config: Composed from ``conf/predict.yaml``.

    Returns:
        ``predictions`` (path, class, confidence and the ``top`` classes of each image; of pixels also the ``mask``, and
        shares of the image in place of probabilities) and the files written.

    Raises:
        UserError: No images, an unreadable image or checkpoint.
    """
    paths = _find_images(config.images)
    path = checkpoint_path(None, config.checkpoint)
    checkpoint = read_run_checkpoint(path)  # type: ignore[arg-type]
    metadata = checkpoint[KEY]
    data, classes = metadata["config"]["data"], metadata["class_list"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = load_net(checkpoint).to(device)
    mean, std = (torch.tensor(data[key], device=device).view(1, -1, 1, 1) for key in ("mean", "std"))

    if isinstance(net, Segmenter):
        return _segment(net, paths, lambda image: (image.to(device) / 255 - mean[0]) / std[0], metadata, config)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), config.batch_size):
        batch = paths[start : start + config.batch_size]
        images = [decode_file(image, data["in_channels"]) for image in batch]
        inputs = torch.stack([center_crop(image, data["image_size"], data["resize"]) for image in images]).to(device)
        with torch.inference_mode():
            probabilities = net((inputs / 255 - mean) / std).softmax(dim=1).cpu()
        rows += [_row(*item, classes, config.top_k) for item in zip(batch, images, probabilities, strict=True)]
    return _write(rows, Path(config.output), "the most probable classes of each")


def _segment(
    net: Segmenter,
    paths: Sequence[Path],
    normalised: Callable[[Tensor], Tensor],
    metadata: Mapping[str, Any],
    config: DictConfig,
) -> dict[str, Any]:
    """Say the class of every pixel of whole images, one after the other."""
    classes = metadata["class_list"]
    colours = class_colours(len(classes))
    folder = Path(config.output) / "masks"
    _make(folder)
    rows = []
    for number, path in enumerate(paths):
        image = decode_file(path, metadata["config"]["data"]["in_channels"])
        with torch.inference_mode():
            (scores,) = DenseViews()(net, [normalised(image)])
        mask = scores.argmax(dim=0).to(torch.uint8).cpu()
        file = folder / f"{number:06d}-{path.stem}.png"
        file.write_bytes(mask_png(mask))
        shares = torch.bincount(mask.flatten().long(), minlength=len(classes)) / mask.numel()
        row = _row(path, image, shares, classes, config.top_k)
        for item in row["top"]:
            item["colour"] = colours[classes.index(item["class"])]
        rows.append({**row, "mask": str(file), "thumbnail": overlay_png(image, mask)})
    return _write(rows, Path(config.output), "the classes that cover most of each")


def _find_images(images: str) -> list[Path]:
    path = Path(images)
    if path.is_dir():
        found = sorted(item for item in path.rglob("*") if item.suffix.lower() in IMAGE_SUFFIXES)
    else:
        found = sorted(Path(item) for item in glob.glob(images, recursive=True))  # noqa: PTH207  the pattern may be absolute
    if not found:
        raise UserError(f"images={images}: no image there; expected a file, a folder of images, or a glob in quotes")
    return found


def _row(path: Path, image: Tensor, probabilities: Tensor, classes: list[str], top_k: int) -> dict[str, Any]:
    top = probabilities.topk(min(top_k, len(classes)))
    ranked = [
        {"class": classes[index], "probability": round(float(value), 6)}
        for value, index in zip(top.values, top.indices.tolist(), strict=True)
    ]
    return {
        "path": str(path),
        "prediction": ranked[0]["class"],
        "confidence": ranked[0]["probability"],
        "top": ranked,
        "thumbnail": thumbnail_png(image),
    }


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder}: cannot be written ({error.strerror})") from error


def _write(rows: list[dict[str, Any]], output: Path, remark: str) -> dict[str, Any]:
    _make(output)
    table, page = output / "predictions.csv", output / "predictions.html"
    write_prediction_page(rows, page, remark)
    predictions = [{key: value for key, value in row.items() if key != "thumbnail"} for row in rows]
    text = io.StringIO()
    columns = ["path", "prediction", "confidence", *(["mask"] if "mask" in rows[0] else [])]
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(predictions)
    write_atomic(table, text.getvalue())
    write_atomic(output / "predictions.json", dumps(predictions, indent=2))
    return {
        "predictions": predictions,
        "csv": str(table),
        "json": str(output / "predictions.json"),
        "page": str(page),
    }


def show(result: Mapping[str, Any]) -> None:
    """Print the first predictions and where all of them are."""
    rows = [(row["path"], row["prediction"], f"{row['confidence']:.3f}") for row in result["predictions"]]
    print_table(("image", "prediction", "confidence"), rows[:SHOWN])
    if len(rows) > SHOWN:
        print_fields({f"… and {len(rows) - SHOWN:,} more in": result["csv"]})
    print_fields({"page": result["page"], "table": result["csv"]})


if __name__ == "__main__":
    types = {"checkpoint": str, "images": str, "output": str, "top_k": PositiveInt, "batch_size": PositiveInt}
    execute(predict, show, types)
