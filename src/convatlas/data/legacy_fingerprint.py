"""Compute the data fingerprint of earlier versions, which is needed to compare data with old records.

It covers the classes, the names of images and masks, the labels of classification, and the annotations of detection.
It covers neither the content of masks nor the size or content of images. Nothing here may change, because the
fingerprints are stored in records.
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
    """Compute the SHA-256 of the classes and of the fingerprints of the sources of ``train``, ``val`` and ``test``.

    If ``val`` is cut from ``train``, the whole source of ``train`` takes its place.

    Args:
        data: The data of a run.

    Returns:
        The value of ``data_fingerprint`` in an old record, as hexadecimal digits.

    Raises:
        TypeError: The earlier versions did not have this kind of source.
    """
    digest = hashlib.sha256(data.class_list.hash.encode())
    for split in ("train", "val", "test"):
        digest.update(source_fingerprint(data.sources[split]))
    return digest.hexdigest()


@singledispatch
def source_fingerprint(source: object) -> bytes:
    """Compute the fingerprint of the source of a split.

    Raises:
        TypeError: The earlier versions did not have this kind of source.
    """
    raise TypeError(f"{type(source).__name__} has no fingerprint of that time")


@source_fingerprint.register
def _(source: FolderSource) -> bytes:
    """Cover the names in each class."""
    return hashlib.sha256(source.names.digest() + source.names.counts.tobytes()).digest()


@source_fingerprint.register
def _(source: ArraySource) -> bytes:
    """Cover the name of the data set and the labels."""
    return source.name.encode() + source.labels.tobytes()


@source_fingerprint.register
def _(source: ShardSource) -> bytes:
    """Cover the index of all shards."""
    return source.index_digest


@source_fingerprint.register
def _(source: MaskFiles) -> bytes:
    """Cover the names of images and masks without their folders."""
    lines = [f"{image.name}\t{mask.name}" for image, mask in source.pairs]
    return hashlib.sha256("\n".join(lines).encode()).digest()


@source_fingerprint.register(ShapeScenes)
@source_fingerprint.register(SceneSource)
def _(source: ShapeScenes | SceneSource) -> bytes:
    """Cover the parameters that determine the scenes."""
    return source.description.encode()


@source_fingerprint.register
def _(source: CocoSource) -> bytes:
    """Cover the file of annotations."""
    return source.annotation_digest


@source_fingerprint.register
def _(source: VocSource) -> bytes:
    """Cover the names and the content of the annotations."""
    digest = hashlib.sha256("\n".join(source.names).encode())
    for values in source.annotation_values:
        digest.update(values.tobytes())
    return digest.digest()
