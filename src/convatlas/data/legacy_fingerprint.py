"""The fingerprint that data had before labels, masks and image sizes counted; only records of that time need it.

It covers the classes, the names of images and masks, the labels of classification, and the annotations of detection,
but neither the content of masks nor any image. Nothing here may change: the digests are in records.
"""

import hashlib
from functools import singledispatch

from convatlas.data.detection.coco import CocoSource
from convatlas.data.detection.datasets import SceneSource
from convatlas.data.detection.voc import VocSource
from convatlas.data.module import ImageDataModule
from convatlas.data.segmentation.sources import MaskFiles, ShapeScenes
from convatlas.data.sources.images import ArraySource, FolderSource
from convatlas.data.sources.shards import ShardSource


def legacy_fingerprint(data: ImageDataModule) -> str:
    """SHA-256 over the classes and the fingerprints of the sources of ``train``, ``val`` and ``test``.

    A ``val`` that is cut from ``train`` counts as the whole source of ``train``.

    Args:
        data: The data of a run.

    Returns:
        What a record of that time calls ``data_fingerprint``, as hexadecimal digits.

    Raises:
        TypeError: A kind of source that did not exist then.
    """
    digest = hashlib.sha256(data.class_list.hash.encode())
    for split in ("train", "val", "test"):
        digest.update(source_fingerprint(data.sources[split]))
    return digest.hexdigest()


@singledispatch
def source_fingerprint(source: object) -> bytes:
    """The fingerprint of the images of a split.

    Raises:
        TypeError: A kind of source that did not exist then.
    """
    raise TypeError(f"{type(source).__name__} has no fingerprint of that time")


@source_fingerprint.register
def _(source: FolderSource) -> bytes:
    """The names in each class."""
    return hashlib.sha256(source.names.digest() + source.names.counts.tobytes()).digest()


@source_fingerprint.register
def _(source: ArraySource) -> bytes:
    """The name of the data set, and the labels."""
    return source.name.encode() + source.labels.tobytes()


@source_fingerprint.register
def _(source: ShardSource) -> bytes:
    """The index of all shards."""
    return source.index_digest


@source_fingerprint.register
def _(source: MaskFiles) -> bytes:
    """The names of images and masks, without their folders."""
    lines = [f"{image.name}\t{mask.name}" for image, mask in source.pairs]
    return hashlib.sha256("\n".join(lines).encode()).digest()


@source_fingerprint.register(ShapeScenes)
@source_fingerprint.register(SceneSource)
def _(source: ShapeScenes | SceneSource) -> bytes:
    """What the scenes are a function of."""
    return source.description.encode()


@source_fingerprint.register
def _(source: CocoSource) -> bytes:
    """The file of annotations."""
    return source.annotation_digest


@source_fingerprint.register
def _(source: VocSource) -> bytes:
    """The names, and all that the annotations say."""
    digest = hashlib.sha256("\n".join(source.names).encode())
    for values in source.annotation_values:
        digest.update(values.tobytes())
    return digest.digest()
