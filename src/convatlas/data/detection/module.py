"""The LightningDataModule of object detection."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convatlas.config.value_types import Side
from convatlas.data.batch import ObjectBatch
from convatlas.data.dataset import SPLITS, Split
from convatlas.data.detection.loader import ObjectLoader
from convatlas.data.detection.objects import Objects, ObjectSource
from convatlas.data.detection.transforms import ObjectAugmentation, ResizeShortSide
from convatlas.data.label_counts import absent_classes
from convatlas.data.loader import BatchPlan
from convatlas.data.module import ImageDataModule
from convatlas.data.sampler import Indices
from convatlas.errors import UserError


class DetectionDataModule(ImageDataModule):
    """Images with objects in three splits: ``train``, ``val`` (for tuning) and ``test`` (reported, touched once).

    Args:
        long_side: Most pixels of its long side; an image that would be longer is made smaller.
        augment: Augmentation of training images and their objects; None if only evaluated.
        common: The arguments of ``ImageDataModule``.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected; names the key.
    """

    task_type = "detection"

    sources: Mapping[Split, ObjectSource]

    def __init__(self, *, long_side: Side, augment: ObjectAugmentation | None = None, **common: Any) -> None:
        super().__init__(**common)
        if not isinstance(augment, ObjectAugmentation | None):
            raise UserError(f"augment: it is for images without objects; data={self.name} expects augment=objects_flip")
        resize = ResizeShortSide(short_sides=[self.image_size], long_side=long_side)
        self.evaluation = ObjectAugmentation(resize=resize)
        self.augment = self.evaluation if augment is None else replace(augment, resize=augment.resize or resize)
        sizes = self.sources["train"].sizes[self.indices["train"]]
        self._upright = (sizes[:, 0] > sizes[:, 1]).astype(np.int64)

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""
        return all(source.has_masks for source in self.sources.values())

    def objects(self, split: Split, index: int) -> Objects:
        """Return the objects of one stored image of a split."""
        return self.sources[split].objects(int(self.indices[split][index]))

    def check_labels(self, splits: Sequence[Split] = SPLITS) -> list[str]:
        """Count the objects of each class, without crowds and difficult ones.

        Args:
            splits: The splits to check.

        Returns:
            Warnings of one line: classes that do not occur in a split.

        Raises:
            UserError: There is no object to train on; names the annotations.
        """
        names = self.class_list.names
        found = {split: self.sources[split].count_objects(self.indices[split], len(names)) for split in splits}
        counts = {split: of_class for split, of_class in found.items() if of_class is not None}
        if "train" in counts and not counts["train"].any():
            raise UserError(
                f"{self.sources['train'].where}: no object to train on in {self.num_samples('train'):,} training "
                "images; expected objects with an area in their image that are neither crowds nor difficult"
            )
        return absent_classes(self.name, "object", names, counts)

    def train_order(self, epoch: int, accumulation: int, **arguments: Any) -> list[Indices]:
        """Return the batches of this rank in an epoch; upright and other images are in separate batches."""
        return super().train_order(epoch, accumulation, kinds=self._upright, **arguments)

    def training_loader(self, plan: BatchPlan, num_batches: int) -> ObjectLoader:
        """Augmented images with their objects."""
        return ObjectLoader(
            augmentation=self.augment,
            with_objects=True,
            **self.loader_arguments("train", plan, num_batches, training=True),
        )

    def evaluation_loader(self, split: Split, plan: BatchPlan, num_batches: int) -> ObjectLoader:
        """Whole images."""
        return ObjectLoader(
            augmentation=self.evaluation,
            with_objects=False,
            **self.loader_arguments(split, plan, num_batches, training=False),
        )

    def on_after_batch_transfer(self, batch: ObjectBatch, dataloader_idx: int) -> ObjectBatch:
        """Normalise images on the device; padding stays zero."""
        images = self.normalised(batch.images)
        for image, (height, width) in zip(images, batch.sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return batch._replace(images=images)
