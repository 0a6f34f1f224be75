"""The forms in which the loaders of ``benchmarks.loader`` read the same images.

Every form holds the same JPEG bytes: as a folder for each class, in tar shards (which both ours and webdataset read)
and in FFCV's .beton file. FFCV's own writer decodes and encodes anew; the bytes are put into its file as they are, so
that all loaders decode the same pictures.
"""

import io
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from convatlas.config.composition import compose
from pipelines.data_prepare import data_prepare

BATCH = 256
SIDE = 340
"""Short side of the smaller form in pixels."""
QUALITY = 90
NUM_SHARDS = 8


@dataclass(frozen=True)
class StoredForm:
    """One quality of the images, in each loader's layout.

    Args:
        path: Its folder.
    """

    path: Path

    @property
    def folder(self) -> Path:
        """Folders of ``train/<class>/<image>``; ``val`` and ``test`` are the same images, which nobody reads."""
        return self.path / "folder"

    @property
    def sharded(self) -> Path:
        """The folder of the shards."""
        return self.path / "shards"

    @property
    def shards(self) -> list[Path]:
        """Tar shards in WebDataset layout, as ``convatlas data prepare`` writes them."""
        return sorted(self.sharded.glob("train-*.tar"))

    @property
    def beton(self) -> Path:
        """FFCV's file."""
        return self.path / "images.beton"


def prepare(images: Path, store: Path, limit: int, batches: int) -> tuple[StoredForm, StoredForm]:
    """Write the two forms where they are not yet: the original files, and short side 340 at quality 90.

    Args:
        images: A folder or a tar file with a folder for each class.
        store: Where the forms are kept.
        limit: Images at most, spread evenly over all.
        batches: Batches in an epoch at least; fewer images are stored over and over. What a loader does once an epoch
            weighs little in a real one, and must here.

    Returns:
        Original and resized form.
    """
    original, resized = StoredForm(store / "original"), StoredForm(store / f"{SIDE}px")
    if not original.path.is_dir():
        _write(original, _chosen(images, limit, batches))
    if not resized.path.is_dir():
        _write(resized, ((name, _resized(encoded)) for name, encoded in _files(original.folder / "train")))
    return original, resized


def write_beton(form: StoredForm) -> None:
    """Write FFCV's file of a form, unless it is there; needs FFCV.

    The field's encoder is replaced on the instance: the file names the field by its exact type.
    """
    if form.beton.is_file():
        return
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.writer import DatasetWriter

    def keep_bytes(destination: Any, encoded: bytes, malloc: Any) -> None:
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["width"], destination["height"] = Image.open(io.BytesIO(encoded)).size
        destination["data_ptr"], storage = malloc(len(encoded))
        storage[:] = np.frombuffer(encoded, dtype=np.uint8)

    image_field = RGBImageField(write_mode="jpg")
    image_field.encode = keep_bytes
    unfinished = form.beton.with_suffix(".unfinished")
    samples = list(_labelled(form))
    DatasetWriter(str(unfinished), {"image": image_field, "label": IntField()}, num_workers=1).from_indexed_dataset(
        samples
    )
    unfinished.rename(form.beton)


def _write(form: StoredForm, images: Iterator[tuple[str, bytes]]) -> None:
    """Write folder and shards; the form's own name appears when they are complete."""
    unfinished = StoredForm(form.path.with_name(form.path.name + ".unfinished"))
    shutil.rmtree(unfinished.path, ignore_errors=True)
    for name, encoded in images:
        path = unfinished.folder / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    for split in ("val", "test"):
        (unfinished.folder / split).symlink_to("train")
    count = len(list((unfinished.folder / "train").glob("*/*")))
    where = [f"data.root={unfinished.folder}", f"output={unfinished.sharded}"]
    data_prepare(compose("data_prepare", ["data=imagefolder", *where, f"samples_per_shard={-(-count // NUM_SHARDS)}"]))
    unfinished.path.rename(form.path)


def _chosen(images: Path, limit: int, batches: int) -> Iterator[tuple[str, bytes]]:
    """Whole batches of JPEG files, RGB or grey: what every loader decodes."""
    found = (_tar_files if images.is_file() else _files)(images)
    kept = [(name, encoded) for name, encoded in found if _is_jpeg(encoded)]
    if not kept:
        raise SystemExit(f"--images {images}: no JPEG files in class folders")
    spread = np.linspace(0, len(kept) - 1, min(limit, len(kept))).astype(int)
    for number in range(BATCH * max(batches, len(spread) // BATCH)):
        name, encoded = kept[spread[number % len(spread)]]
        folder, file = name.split("/")
        yield f"{folder}/{number // len(spread):03d}-{file}", encoded


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("*/*")):
        yield f"{path.parent.name}/{path.name}", path.read_bytes()


def _tar_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar:
            if (content := tar.extractfile(member)) is not None:
                yield "/".join(Path(member.name).parts[-2:]), content.read()


def _is_jpeg(encoded: bytes) -> bool:
    try:
        image = Image.open(io.BytesIO(encoded), formats=["JPEG"])
    except UnidentifiedImageError:
        return False
    return image.mode in ("RGB", "L")


def _labelled(form: StoredForm) -> Iterator[tuple[bytes, int]]:
    """Encoded images and classes, class by class."""
    labels: dict[str, int] = {}
    for name, encoded in _files(form.folder / "train"):
        yield encoded, labels.setdefault(name.split("/")[0], len(labels))


def _resized(encoded: bytes) -> bytes:
    """Short side to 340 pixels, a smaller image as large as it is; quality 90."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
    shrink = min(1.0, SIDE / min(image.size))
    width, height = (round(side * shrink) for side in image.size)
    written = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(written, "JPEG", quality=QUALITY)
    return written.getvalue()
