"""The LightningDataModule of image classification."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from convatlas.config.value_types import Side
from convatlas.data.batch import Batch, ViewBatch, Views
from convatlas.data.dataset import SPLITS, Split
from convatlas.data.label_counts import absent_classes
from convatlas.data.loader import BatchMemory, BatchPlan, ThreadedLoader
from convatlas.data.module import ImageDataModule
from convatlas.data.sampler import Indices
from convatlas.data.sources.images import LabelledSource, Labels
from convatlas.data.transforms.image import Augmentation, CenterCrop
from convatlas.errors import UserError

BatchT = TypeVar("BatchT", Batch, ViewBatch)


class ClassificationDataModule(ImageDataModule):
    """Labelled images in three splits: ``train``, ``val`` (for tuning) and ``test`` (reported, touched once).

    Args:
        resize: Short side before the evaluation's centre crop, in pixels; None leaves images as they are.
        augment: Augmentation of training images; None if only evaluated.
        common: The arguments of ``ImageDataModule``.

    Attributes:
        views: Cuts the views of an image for a test protocol; None, the default, uses the central crop.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected; names the key.
    """

    task_type = "classification"
    views: Views | None = None

    sources: Mapping[Split, LabelledSource]

    def __init__(self, *, resize: Side | None, augment: Augmentation | None = None, **common: Any) -> None:
        super().__init__(**common)
        self._memory = BatchMemory()
        self.evaluation = Augmentation(crop=CenterCrop(resize=resize))
        self.augment = augment or self.evaluation

    def strata(self) -> Labels:
        """Class of each training image, (N,)."""
        return self.sources["train"].labels

    def check_batch(self, world_size: int, accumulation: int) -> None:
        """Refuse a batch that cannot be dealt out; samples that are mixed are dealt in pairs.

        Raises:
            UserError: Naming ``data.global_batch_size``.
        """
        size = self.global_batch_size
        if self.augment.mix is not None and size % (2 * world_size * accumulation):
            raise UserError(
                f"data.global_batch_size={size}: augment.mix takes pairs, expected a multiple of "
                f"{2 * world_size * accumulation} = 2 × {world_size} ranks × {accumulation} accumulation"
            )
        super().check_batch(world_size, accumulation)

    def check_labels(self, splits: Sequence[Split] = SPLITS) -> list[str]:
        """Count the images of each class.

        Args:
            splits: The splits to check.

        Returns:
            Warnings of one line: classes that do not occur in a split.
        """
        names = self.class_list.names
        counts = {
            split: np.bincount(self.sources[split].labels[self.indices[split]], minlength=len(names))
            for split in splits
        }
        return absent_classes(self.name, "image", names, counts)

    def on_after_batch_transfer(self, batch: BatchT, dataloader_idx: int) -> BatchT:
        """Normalise on the device and augment further: (N, C, H, W) uint8 to float32, ``(x / 255 - mean) / std``."""
        if isinstance(batch, ViewBatch):
            return batch._replace(images=[[self.normalised(stack) for stack in views] for views in batch.images])
        return self.augment.on_device(batch._replace(images=self.normalised(batch.images)))

    def train_order(self, epoch: int, accumulation: int, **arguments: Any) -> list[Indices]:
        """Return the batches of this rank in an epoch; pairs that are mixed stay together."""
        group = 1 if self.augment.mix is None else 2
        return super().train_order(epoch, accumulation, repeats=self.augment.repeats, group=group, **arguments)

    def training_loader(self, plan: BatchPlan, num_batches: int) -> ThreadedLoader:
        """Augmented images."""
        return self._loader("train", plan, num_batches, self.augment, training=True)

    def evaluation_loader(self, split: Split, plan: BatchPlan, num_batches: int) -> ThreadedLoader:
        """Central crops, or the views of a test protocol."""
        return self._loader(split, plan, num_batches, self.evaluation, self.views)

    def evaluation_batch_size(self, world_size: int) -> int:
        """Return a smaller batch size if each image has several views."""
        return max(1, self.global_batch_size // world_size // (self.views.crops if self.views else 1))

    def _loader(
        self,
        split: Split,
        plan: BatchPlan,
        num_batches: int,
        augmentation: Augmentation,
        views: Views | None = None,
        *,
        training: bool = False,
    ) -> ThreadedLoader:
        return ThreadedLoader(
            augmentation=augmentation,
            in_channels=self.in_channels,
            image_size=self.image_size,
            memory=self._memory,
            views=views,
            **self.loader_arguments(split, plan, num_batches, training=training),
        )


def build_classification_data(config: DictConfig) -> ClassificationDataModule:
    """Build the data module of a configuration's ``data``, for verbs that support classification only.

    Raises:
        UserError: The data are for something else.
    """
    data = instantiate(config)
    if not isinstance(data, ClassificationDataModule):
        raise UserError(f"data={config.name} is for {data.task_type}; this verb is for classification")
    return data
