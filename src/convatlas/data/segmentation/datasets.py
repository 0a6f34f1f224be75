"""Data sets for segmentation: find the images, masks and classes of each."""

import os
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import VOCSegmentation

from convatlas.data.class_list import ClassList
from convatlas.data.classification.datasets import fetching
from convatlas.data.dataset import SPLITS
from convatlas.data.detection.voc import check_names
from convatlas.data.segmentation.sources import MaskFiles, SegmentationDataset, ShapeScenes
from convatlas.data.sources.files import ImageFiles, several_images
from convatlas.data.sources.scan import ImageScan
from convatlas.data.sources.shapes import CLASSES
from convatlas.errors import UserError

BACKGROUND = "background"
VOC_CLASSES = (
    BACKGROUND,
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def shapes(in_channels: int, *, train: int, test: int, size: int, scenes_seed: int = 0) -> SegmentationDataset:
    """Generated scenes of shapes, which need no files.

    Args:
        in_channels: 1 for greyscale, 3 for RGB.
        train: Number of training scenes.
        test: Number of scenes of the reported split. They differ from the training scenes.
        size: Height and width in pixels.
        scenes_seed: Seed of the scenes, independent of the run's seed.
    """
    return SegmentationDataset(
        ClassList((BACKGROUND, *CLASSES)),
        train=ShapeScenes(scenes_seed, 0, train, size, in_channels),
        test=ShapeScenes(scenes_seed, train, test, size, in_channels),
    )


def voc_folder(in_channels: int, *, root: str, train_list: str = "train") -> SegmentationDataset:
    """The layout of Pascal VOC: ``JPEGImages``, ``SegmentationClass`` and ``ImageSets/Segmentation/<split>.txt``.

    The file of an image has its name in the list and any known suffix; ``.jpg`` is preferred.

    ``val`` is the reported split. The classes are the lines of ``classes.txt`` in the folder. Without this file, they
    are those of VOC.

    Args:
        in_channels: 1 for greyscale, 3 for RGB.
        root: The folder, such as ``VOCdevkit/VOC2012``.
        train_list: The list of training images, such as ``trainaug`` with SBD's masks.

    Raises:
        UserError: A list, an image or a mask is missing; a list names an image twice or outside the folder; several
            files have the name of an image.
    """
    top = Path(root)
    class_list = _class_list(top, ClassList(VOC_CLASSES))
    images = ImageFiles(top / "JPEGImages")

    def source(split: str) -> MaskFiles:
        listed = top / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listed.is_file():
            raise UserError(f"data.root={root}: {listed} is missing; expected the names of the {split} images")
        names = listed.read_text(encoding="utf-8").split()
        check_names(names, listed)
        pairs = [
            (images.folder / _image(images, name, listed), top / "SegmentationClass" / f"{name}.png") for name in names
        ]
        return _source(pairs, top, class_list, in_channels, listed)

    return SegmentationDataset(class_list, train=source(train_list), test=source("val"))


def voc(in_channels: int, *, root: str, download: bool, year: str = "2012") -> SegmentationDataset:
    """Pascal VOC's segmentation challenge, through torchvision.

    Raises:
        UserError: The data set is not under ``root`` and cannot be downloaded.
    """
    folder = Path(root) / "VOCdevkit" / f"VOC{year}"
    with fetching(f"VOC{year}", root, download):
        VOCSegmentation(root, year=year, image_set="train", download=download and not folder.is_dir())
    return voc_folder(in_channels, root=str(folder))


def mask_folders(
    in_channels: int,
    *,
    root: str,
    images: str = "images",
    masks: str = "masks",
    image_suffix: str = "",
    mask_suffix: str = "",
    values: Sequence[int] | None = None,
) -> SegmentationDataset:
    """Parallel folders of images and masks with corresponding names.

    The images are ``root/<images>/<split>/**/<name><image_suffix>.*``, their masks
    ``root/<masks>/<split>/**/<name><mask_suffix>.png``. For Cityscapes, the arguments are ``images: leftImg8bit``,
    ``masks: gtFine``, ``image_suffix: _leftImg8bit`` and ``mask_suffix: _gtFine_labelIds``. The reported split is
    ``test`` if it exists and has masks, otherwise ``val``. The classes are the lines of ``root/classes.txt``.

    Args:
        in_channels: 1 for greyscale, 3 for RGB.
        root: The folder.
        images: The folder of the images in ``root``.
        masks: The folder of the masks in ``root``.
        image_suffix: The end of the file name of an image, before its extension.
        mask_suffix: The end of the file name of a mask, in place of ``image_suffix``.
        values: The value of each class in the mask files, in order; other values become ``IGNORE_INDEX``. None: the
            value of class k is k.

    Raises:
        UserError: A folder, a mask or ``classes.txt`` is missing; two images have the same mask; the number of
            ``values`` is not the number of classes.
    """
    top = Path(root)
    class_list = _class_list(top)
    if values is not None and len(values) != len(class_list.names):
        raise UserError(
            f"data.dataset.values: {len(values)} numbers, expected one for each of {len(class_list.names)} classes"
        )

    scan = ImageScan(cache=None)

    def source(split: str) -> MaskFiles:
        folder = top / images / split
        listed = sorted(folder / os.fsdecode(name) for name in scan.images(folder)) if folder.is_dir() else []
        found = [path for path in listed if path.stem.endswith(image_suffix)]
        if image_suffix:
            others = (path for path in listed if not path.stem.endswith(image_suffix))
            scan.passed_over.update(f"{path.suffix.lower()} without {image_suffix}" for path in others)
        if not found:
            raise UserError(f"data.root: {folder} has no images; expected *{image_suffix}.png, .jpg …")
        names = [path.relative_to(folder).with_name(path.stem.removesuffix(image_suffix)) for path in found]
        pairs = [
            (path, top / masks / split / name.with_name(f"{name.name}{mask_suffix}.png"))
            for path, name in zip(found, names, strict=True)
        ]
        return _source(pairs, top, class_list, in_channels, folder, values)

    present = [split for split in SPLITS if (top / images / split).is_dir()]
    if "test" in present and (top / masks / "test").is_dir():
        val = source("val") if "val" in present else None
        return SegmentationDataset(
            class_list, train=source("train"), val=val, test=source("test"), passed_over=scan.passed_over
        )
    return SegmentationDataset(class_list, train=source("train"), test=source("val"), passed_over=scan.passed_over)


def _class_list(root: Path, usual: ClassList | None = None) -> ClassList:
    listed = root / "classes.txt"
    if not root.is_dir():
        raise UserError(f"data.root={root}: no such folder")
    if listed.is_file():
        return ClassList.read(listed)
    if usual is None:
        raise UserError(f"{listed}: missing; expected the class names, one a line, in the order of the masks' values")
    return usual


def _image(images: ImageFiles, name: str, listed: Path) -> str:
    """Return the file name of a listed image. ``.jpg`` is preferred, and is assumed if no file exists."""
    found, usual = images.named(name), f"{name}.jpg"
    if usual in found or not found:
        return usual
    if len(found) > 1:
        raise several_images(listed, name, images, found)
    return found[0]


def _source(
    pairs: Sequence[tuple[Path, Path]],
    root: Path,
    class_list: ClassList,
    in_channels: int,
    listed: Path,
    values: Sequence[int] | None = None,
) -> MaskFiles:
    if not pairs:
        raise UserError(f"{listed}: names no images")
    owners: dict[Path, Path] = {}
    for image, mask in pairs:
        if (owner := owners.setdefault(mask, image)) != image:
            raise UserError(f"data.root: {owner} and {image} have one mask, {mask}; expected one image for each mask")
        for path, what in ((image, "image"), (mask, "mask")):
            if not path.is_file():
                raise UserError(f"data.root: the {what} {path} is missing; expected one for each image of {listed}")
    return MaskFiles(pairs, root, len(class_list.names), in_channels, values)
