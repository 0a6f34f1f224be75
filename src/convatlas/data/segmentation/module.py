"""The LightningDataModule of semantic segmentation."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from convatlas.data.batch import IGNORE_INDEX, SegmentationBatch, WholeImageBatch
from convatlas.data.dataset import SPLITS, Split
from convatlas.data.label_counts import absent_classes
from convatlas.data.loader import BatchPlan
from convatlas.data.module import ImageDataModule
from convatlas.data.segmentation.loader import MaskLoader
from convatlas.data.segmentation.sources import MaskSource
from convatlas.data.segmentation.transforms import JointAugmentation, ScaleCrop
from convatlas.errors import UserError

VALUES_HINT = "; data.dataset.values (of data=mask_folders) says which value stands for each class"
LOOKED_AT = 20
"""Masks whose values a message lists."""

BatchT = TypeVar("BatchT", SegmentationBatch, WholeImageBatch)


class SegmentationDataModule(ImageDataModule):
    """Images with masks in three splits. Training sees crops, evaluation whole images at their own size.

    Args:
        augment: Augmentation of training images and their masks; None if only evaluated.
        common: The arguments of ``ImageDataModule``.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected; names the key.
    """

    task_type = "segmentation"

    sources: Mapping[Split, MaskSource]

    def __init__(self, *, augment: JointAugmentation | None = None, **common: Any) -> None:
        super().__init__(**common)
        if not isinstance(augment, JointAugmentation | None):
            raise UserError(
                f"augment: it is for images without masks; data={self.name} expects augment=masks_scale_crop_flip"
            )
        self.augment = augment or JointAugmentation(crop=ScaleCrop())

    def mask(self, split: Split, index: int) -> Tensor:
        """The mask of one image of a split, (H, W) uint8."""
        return self.sources[split].mask(int(self.indices[split][index]))

    def check_labels(self, splits: Sequence[Split] = SPLITS) -> list[str]:
        """Count the pixels of each class in all masks, which are read unless that was done before.

        Args:
            splits: The splits to check.

        Returns:
            Warnings of one line: classes that do not occur in a split, splits that are mostly void.

        Raises:
            UserError: At most one of the classes occurs in the training masks; names ``data.dataset.values``.
            ImageError: A mask cannot be used, unless ``on_error`` is ``skip``.
        """
        names = self.class_list.names
        warnings: list[str] = []
        counts = {}
        for split in splits:
            source, indices = self.sources[split], self.indices[split]
            pixels = source.count_pixels(indices, self.threads, skip=self.on_error == "skip")
            if pixels is None:
                continue
            occurring = np.flatnonzero(pixels[: len(names)]).tolist()
            void = f"{100 * pixels[IGNORE_INDEX] / max(1, pixels.sum()):.1f} % of the pixels are void"
            if len(occurring) <= 1 < len(names):
                only = f"only {names[occurring[0]]}" if occurring else "no class"
                values = ", ".join(map(str, source.stored_values(indices[:LOOKED_AT]))) or "no values"
                message = (
                    f"data={self.name}: {split}: {only} occurs in the masks, and {void}; the first masks hold {values}"
                    f"; expected class k as the value k, or the value of each of the {len(names)} classes in "
                    "data.dataset.values (of data=mask_folders)"
                )
                if split == "train":
                    raise UserError(message)
                warnings.append(message)
                continue
            if 2 * pixels[IGNORE_INDEX] > pixels.sum():
                warnings.append(f"data={self.name}: {split}: {void} and do not count{VALUES_HINT}")
            counts[split] = pixels[: len(names)]
        return warnings + absent_classes(self.name, "pixel", names, counts, VALUES_HINT)

    def on_after_batch_transfer(self, batch: BatchT, dataloader_idx: int) -> BatchT:
        """Normalise images on the device; labels become int64."""
        if isinstance(batch, WholeImageBatch):
            return batch._replace(
                images=[self.normalised(image) for image in batch.images],
                labels=[labels.to(torch.int64) for labels in batch.labels],
            )
        return batch._replace(images=self.normalised(batch.images), labels=batch.labels.to(torch.int64))

    def training_loader(self, plan: BatchPlan, num_batches: int) -> MaskLoader:
        """Augmented crops."""
        return self._loader("train", plan, num_batches, self.augment)

    def evaluation_loader(self, split: Split, plan: BatchPlan, num_batches: int) -> MaskLoader:
        """Whole images."""
        return self._loader(split, plan, num_batches, None)

    def _loader(
        self, split: Split, plan: BatchPlan, num_batches: int, augmentation: JointAugmentation | None
    ) -> MaskLoader:
        arguments = self.loader_arguments(split, plan, num_batches, training=augmentation is not None)
        return MaskLoader(augmentation=augmentation, image_size=self.image_size, **arguments)
