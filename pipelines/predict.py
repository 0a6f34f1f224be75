"""Predict the classes of images, of their pixels, or of the objects in them, with a trained network.

    convatlas predict checkpoint=runs/RUN/checkpoints/best.ckpt images=photos/
    convatlas predict checkpoint=runs/RUN images='scans/*.png' output=scans-predicted

Writes predictions.csv, predictions.json and predictions.html, a page with the pictures; of a segmentation network also
masks/, the class of every pixel with VOC's colours. A detector's table has a line for each object.
"""

import csv
import glob
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig
from pydantic import PositiveInt
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from convatlas.cli import execute
from convatlas.data.detection.loader import batch_size, padded
from convatlas.data.detection.transforms import scaled_size
from convatlas.data.images.decode import decode_file
from convatlas.data.images.thumbnails import thumbnail_png
from convatlas.data.normalization import check_mean, check_std
from convatlas.data.segmentation.pictures import class_colours, mask_png, overlay_png
from convatlas.data.sources.scan import ImageScan, passed_over_text
from convatlas.data.transforms.image import center_crop
from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.detection.detector import Detection, Detector, in_stored_image
from convatlas.models.segmentation.segmenter import Segmenter
from convatlas.report.views.predictions import write_prediction_page
from convatlas.tasks.detection.average_precision import Found
from convatlas.tasks.detection.predictions import CERTAIN, found_in
from convatlas.tasks.evaluation import found_objects_png
from convatlas.tasks.segmentation.protocols import DenseViews
from convatlas.training.checkpoint_io import KEY
from convatlas.training.restore import checkpoint_path, load_net, open_checkpoint, weights_taken
from convatlas.utils.console import print_fields, print_table
from convatlas.utils.files import dumps, write_atomic, write_picture

CORNERS = ("x0", "y0", "x1", "y1")
SHOWN = 10
"""Predictions printed on the terminal."""


def predict(config: DictConfig) -> dict[str, Any]:
    """Say what the checkpoint's network says in evaluation: of images, of their pixels, or which objects are there.

    Args:
        config: Composed from ``conf/predict.yaml``.

    Returns:
        ``predictions`` (path, class, confidence and the ``top`` classes of each image; of pixels also the ``mask``, and
        shares of the image in place of probabilities; of objects ``objects``, each with class, score, box x0, y0, x1,
        y1 in pixels and the mask as COCO's run lengths), ``passed_over`` (files in the folder that are no images, by
        suffix), the files written, and ``weights``: which of the checkpoint's were taken.

    Raises:
        UserError: No images, an unreadable image or checkpoint, a checkpoint whose pixels were not normalised.
    """
    paths, passed_over = _find_images(config.images)
    path = checkpoint_path(None, config.checkpoint)
    checkpoint = open_checkpoint(path)  # type: ignore[arg-type]
    metadata = checkpoint[KEY]
    data = metadata["config"]["data"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = load_net(checkpoint).to(device)
    if not len(data["mean"]) == len(data["std"]) == data["in_channels"] == net.in_channels:
        raise UserError(
            f"checkpoint={path}: damaged: its network takes {net.in_channels} channels; expected as many in "
            "data.in_channels, data.mean and data.std"
        )
    check_mean(f"checkpoint={path}: its data.mean", data["mean"])
    check_std(f"checkpoint={path}: its data.std", data["std"])
    mean, std = (torch.tensor(data[key], device=device).view(-1, 1, 1) for key in ("mean", "std"))

    def normalised(images: Tensor) -> Tensor:
        return (images.to(device) / 255 - mean) / std

    if isinstance(net, Segmenter):
        result = _segment(net, paths, normalised, metadata, config)
    elif isinstance(net, Detector):
        result = _detect(net, paths, normalised, metadata, config)
    else:
        result = _classify(net, paths, normalised, metadata, config)
    return {**result, "passed_over": passed_over, "weights": weights_taken(checkpoint)}


def _classify(
    net: Architecture,
    paths: Sequence[Path],
    normalised: Callable[[Tensor], Tensor],
    metadata: Mapping[str, Any],
    config: DictConfig,
) -> dict[str, Any]:
    """Say the classes of images, a batch at a time."""
    classes, data = metadata["class_list"], metadata["config"]["data"]
    rows: list[dict[str, Any]] = []
    for start in range(0, len(paths), config.batch_size):
        batch = paths[start : start + config.batch_size]
        images = [decode_file(image, data["in_channels"], data.get("background")) for image in batch]
        inputs = torch.stack([center_crop(image, data["image_size"], data["resize"]) for image in images])
        with torch.inference_mode():
            probabilities = net(normalised(inputs)).softmax(dim=1).cpu()
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
    classes, data = metadata["class_list"], metadata["config"]["data"]
    colours = class_colours(len(classes))
    folder = Path(config.output) / "masks"
    _make(folder)
    rows = []
    for number, path in enumerate(paths):
        image = decode_file(path, data["in_channels"], data.get("background"))
        with torch.inference_mode():
            (scores,) = DenseViews()(net, [normalised(image)])
        mask = scores.argmax(dim=0).to(torch.uint8).cpu()
        file = folder / f"{number:06d}-{path.stem}.png"
        write_picture(file, mask_png(mask))
        shares = torch.bincount(mask.flatten().long(), minlength=len(classes)) / mask.numel()
        row = _row(path, image, shares, classes, config.top_k)
        for item in row["top"]:
            item["colour"] = colours[classes.index(item["class"])]
        rows.append({**row, "mask": str(file), "thumbnail": overlay_png(image, mask)})
    columns = ["path", "prediction", "confidence", "mask"]
    return _write(rows, Path(config.output), "the classes that cover most of each", columns)


def _detect(
    net: Detector,
    paths: Sequence[Path],
    normalised: Callable[[Tensor], Tensor],
    metadata: Mapping[str, Any],
    config: DictConfig,
) -> dict[str, Any]:
    """Find the objects of images, one after the other."""
    classes, data = metadata["class_list"], metadata["config"]["data"]
    rows, lines = [], []
    for number, path in enumerate(paths):
        image = decode_file(path, data["in_channels"], data.get("background"))
        stored = (image.shape[-2], image.shape[-1])
        size = scaled_size(stored, data["image_size"], data["long_side"])
        shown = padded(normalised(TF.resize(image, list(size), antialias=True)), batch_size(size))
        with torch.inference_mode():
            (said,) = cast(list[Detection], net(shown[None], [size]))
        found = found_in(number, in_stored_image(said, size, stored))
        objects = [_object(found, row, classes) for row in range(len(found.scores))]
        best = objects[0] if objects else {"class": "nothing", "score": 0.0}
        top = [{"class": one["class"], "probability": one["score"]} for one in objects if one["score"] >= CERTAIN]
        rows.append(
            {
                "path": str(path),
                "prediction": best["class"],
                "confidence": best["score"],
                "top": top[: config.top_k],
                "objects": objects,
                "thumbnail": found_objects_png(image, found, classes),
            }
        )
        corners = ({**one, **dict(zip(CORNERS, one["box"], strict=True))} for one in objects)
        lines += [{"path": str(path), **one} for one in corners]
    remark = f"the objects found with a probability of {CERTAIN} or more"
    return _write(rows, Path(config.output), remark, ["path", "class", "score", *CORNERS], lines)


def _object(found: Found, row: int, classes: Sequence[str]) -> dict[str, Any]:
    one: dict[str, Any] = {
        "class": classes[found.labels[row]],
        "score": round(float(found.scores[row]), 6),
        "box": [round(value, 2) for value in found.boxes[row].tolist()],
    }
    if found.masks is not None:
        mask = found.masks[row]
        one["mask"] = {"size": list(mask["size"]), "counts": mask["counts"].decode()}
    return one


def _find_images(images: str) -> tuple[list[Path], dict[str, int]]:
    """The images, and the number of other files in the folder by suffix."""
    path, passed_over = Path(images), {}
    if path.is_dir():
        scan = ImageScan(cache=None, key="images")
        found = sorted(path / os.fsdecode(name) for name in scan.images(path))
        passed_over = dict(scan.passed_over)
    else:
        found = sorted(Path(item) for item in glob.glob(images, recursive=True))  # noqa: PTH207  the pattern may be absolute
    if not found:
        raise UserError(f"images={images}: no image there; expected a file, a folder of images, or a glob in quotes")
    return found, passed_over


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


def _write(
    rows: list[dict[str, Any]],
    output: Path,
    remark: str,
    columns: Sequence[str] = ("path", "prediction", "confidence"),
    lines: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write the page, the JSON and the table; ``lines`` are the table's, where they are not one an image."""
    _make(output)
    table, page = output / "predictions.csv", output / "predictions.html"
    write_prediction_page(rows, page, remark)
    predictions = [{key: value for key, value in row.items() if key != "thumbnail"} for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(predictions if lines is None else lines)
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
    files = {"files": passed_over_text(result["passed_over"])} if result["passed_over"] else {}
    print_fields({**files, "weights": result["weights"], "page": result["page"], "table": result["csv"]})


if __name__ == "__main__":
    types = {"checkpoint": str, "images": str, "output": str, "top_k": PositiveInt, "batch_size": PositiveInt}
    execute(predict, show, types)
