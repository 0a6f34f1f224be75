"""Predict the classes of images, the class of every pixel, or the objects in images, with a trained network.

    convatlas predict checkpoint=runs/RUN/checkpoints/best.ckpt images=photos/
    convatlas predict checkpoint=runs/RUN images='scans/*.png' output=scans-predicted

Writes predictions.csv, predictions.json and predictions.html, a page with the pictures. A segmentation network also
writes masks/, PNGs that hold the class of every pixel and show it in VOC's colours. The table of a detector has one
line for each object.
"""

import csv
import glob
import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar, cast

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
from convatlas.report.views.predictions import MAX_IMAGES, write_prediction_page
from convatlas.tasks.detection.average_precision import Detections
from convatlas.tasks.detection.predictions import SCORE_THRESHOLD, found_in
from convatlas.tasks.evaluation import found_objects_png
from convatlas.tasks.segmentation.protocols import DenseViews
from convatlas.training.checkpoint_io import KEY
from convatlas.training.restore import checkpoint_path, load_net, open_checkpoint, weights_taken
from convatlas.utils.console import print_fields, print_table
from convatlas.utils.cores import usable_cores
from convatlas.utils.files import dumps, write_atomic, write_picture

CORNERS = ("x0", "y0", "x1", "y1")
SHOWN = 10
"""Number of predictions printed on the terminal."""
AHEAD = 4
"""Number of images that each thread may decode ahead of the network."""
Loaded = TypeVar("Loaded")


def predict(config: DictConfig) -> dict[str, Any]:
    """Predict the classes of images, the class of every pixel, or objects, as the checkpoint's network does.

    Args:
        config: Composed from ``conf/predict.yaml``.

    Returns:
        ``predictions`` (path, class, confidence and the ``top`` classes of each image; for a segmentation network also
        the ``mask``, and shares of the image in place of probabilities; for a detector ``objects``, each with class,
        score, box x0, y0, x1, y1 in pixels, and the mask in COCO's run-length encoding), ``passed_over`` (number of
        files in the folder that are not images, by suffix), the written files, and ``weights``: which weights of the
        checkpoint were used.

    Raises:
        UserError: No images, an unreadable image or checkpoint, a checkpoint whose pixels were not normalised.
    """
    paths, passed_over = _find_images(config.images)
    path = checkpoint_path(None, config.checkpoint)
    checkpoint = open_checkpoint(path)  # type: ignore[arg-type]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = load_net(checkpoint).to(device)
    _check_channels(f"checkpoint={path}", net, checkpoint[KEY]["config"]["data"])
    job = _Job(net, device, paths, checkpoint[KEY], config)
    write = _segment if isinstance(net, Segmenter) else _detect if isinstance(net, Detector) else _classify
    return {**write(job), "passed_over": passed_over, "weights": weights_taken(checkpoint)}


def _check_channels(where: str, net: Architecture, data: Mapping[str, Any]) -> None:
    if not len(data["mean"]) == len(data["std"]) == data["in_channels"] == net.in_channels:
        raise UserError(
            f"{where}: damaged: its network takes {net.in_channels} channels; expected as many in "
            "data.in_channels, data.mean and data.std"
        )
    check_mean(f"{where}: its data.mean", data["mean"])
    check_std(f"{where}: its data.std", data["std"])


class _Job:
    """A network with the images to predict and the settings that they are shown with."""

    def __init__(
        self,
        net: Architecture,
        device: torch.device,
        paths: Sequence[Path],
        metadata: Mapping[str, Any],
        config: DictConfig,
    ) -> None:
        self.net: Any = net
        self.device = device
        self.paths = paths
        self.classes: list[str] = metadata["class_list"]
        self.data: Mapping[str, Any] = metadata["config"]["data"]
        self.config = config
        self.output = Path(config.output)
        self._mean, self._std = (torch.tensor(self.data[key], device=device).view(-1, 1, 1) for key in ("mean", "std"))

    def normalised(self, images: Tensor) -> Tensor:
        """Images (…, C, H, W) uint8 as the network takes them, on its device."""
        return (images.to(self.device) / 255 - self._mean) / self._std

    def load(self, prepare: Callable[[int, Tensor], Loaded]) -> Iterator[Loaded]:
        """Decode and prepare the images in threads, a bounded number ahead, in their order."""
        background = self.data.get("background")

        def work(number: int) -> Loaded:
            return prepare(number, decode_file(self.paths[number], self.data["in_channels"], background))

        threads = usable_cores()
        torch.get_num_threads()  # fixes this thread's own number, which would otherwise become 1, too
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        waiting: deque[Future[Loaded]] = deque()
        try:
            for number in range(len(self.paths)):
                waiting.append(pool.submit(work, number))
                if len(waiting) > AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def row(self, number: int, probabilities: Tensor, thumbnail: bytes | None) -> dict[str, Any]:
        """The prediction of an image from its probabilities, (num_classes,)."""
        top = probabilities.topk(min(self.config.top_k, len(self.classes)))
        ranked = [
            {"class": self.classes[index], "probability": round(float(value), 6)}
            for value, index in zip(top.values, top.indices.tolist(), strict=True)
        ]
        return {
            "path": str(self.paths[number]),
            "prediction": ranked[0]["class"],
            "confidence": ranked[0]["probability"],
            "top": ranked,
            "thumbnail": thumbnail,
        }


def _classify(job: _Job) -> dict[str, Any]:
    """Predict the classes of images, a batch at a time."""
    data = job.data

    def prepare(number: int, image: Tensor) -> tuple[Tensor, bytes | None]:
        cropped = center_crop(image, data["image_size"], data["resize"])
        return cropped, thumbnail_png(image) if number < MAX_IMAGES else None

    loaded = job.load(prepare)
    rows: list[dict[str, Any]] = []
    while batch := list(islice(loaded, job.config.batch_size)):
        images, thumbnails = zip(*batch, strict=True)
        with torch.inference_mode():
            probabilities = job.net(job.normalised(torch.stack(images))).softmax(dim=1).cpu()
        rows += map(job.row, count(len(rows)), probabilities, thumbnails)
    return _write(rows, job.output, "the most probable classes of each")


def _segment(job: _Job) -> dict[str, Any]:
    """Predict the class of every pixel of whole images, one image at a time."""
    colours = class_colours(len(job.classes))
    folder = job.output / "masks"
    _make(folder)
    rows = []
    for number, image in enumerate(job.load(lambda number, image: image)):
        with torch.inference_mode():
            (scores,) = DenseViews()(job.net, [job.normalised(image)])
        mask = scores.argmax(dim=0).to(torch.uint8).cpu()
        file = folder / f"{number:06d}-{job.paths[number].stem}.png"
        write_picture(file, mask_png(mask))
        shares = torch.bincount(mask.flatten().long(), minlength=len(job.classes)) / mask.numel()
        row = job.row(number, shares, overlay_png(image, mask) if number < MAX_IMAGES else None)
        for item in row["top"]:
            item["colour"] = colours[job.classes.index(item["class"])]
        rows.append({**row, "mask": str(file)})
    columns = ["path", "prediction", "confidence", "mask"]
    return _write(rows, job.output, "the classes that cover most of each", columns)


def _detect(job: _Job) -> dict[str, Any]:
    """Find the objects in images, one image at a time."""

    def prepare(number: int, image: Tensor) -> tuple[Tensor, Tensor]:
        size = scaled_size((image.shape[-2], image.shape[-1]), job.data["image_size"], job.data["long_side"])
        return image, TF.resize(image, list(size), antialias=True)

    rows, lines = [], []
    for number, (image, resized) in enumerate(job.load(prepare)):
        stored, size = (image.shape[-2], image.shape[-1]), (resized.shape[-2], resized.shape[-1])
        shown = padded(job.normalised(resized), batch_size(size))
        with torch.inference_mode():
            (said,) = cast(list[Detection], job.net(shown[None], [size]))
        found = found_in(number, in_stored_image(said, size, stored))
        objects = [_object(found, row, job.classes) for row in range(len(found.scores))]
        best = objects[0] if objects else {"class": "nothing", "score": 0.0}
        top = [
            {"class": one["class"], "probability": one["score"]} for one in objects if one["score"] >= SCORE_THRESHOLD
        ]
        rows.append(
            {
                "path": str(job.paths[number]),
                "prediction": best["class"],
                "confidence": best["score"],
                "top": top[: job.config.top_k],
                "objects": objects,
                "thumbnail": found_objects_png(image, found, job.classes) if number < MAX_IMAGES else None,
            }
        )
        corners = ({**one, **dict(zip(CORNERS, one["box"], strict=True))} for one in objects)
        lines += [{"path": str(job.paths[number]), **one} for one in corners]
    remark = f"the objects found with a probability of {SCORE_THRESHOLD} or more"
    return _write(rows, job.output, remark, ["path", "class", "score", *CORNERS], lines)


def _object(found: Detections, row: int, classes: Sequence[str]) -> dict[str, Any]:
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
    """Find the images, and count the other files of the folder by suffix."""
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
    """Write the page, the JSON file and the table, which has ``lines`` if it does not have one row for each image."""
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
