"""The LightningDataModule of object detection."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from convatlas.config.value_types import Name, Side
from convatlas.data.batch import ObjectBatch
from convatlas.data.classification.datasets import SPLITS, Split
from convatlas.data.detection.datasets import ObjectDataset
from convatlas.data.detection.loader import ObjectLoader
from convatlas.data.detection.objects import Objects, ObjectSource
from convatlas.data.detection.transforms import ObjectAugmentation, ResizeShortSide
from convatlas.data.label_counts import absent_classes
from convatlas.data.loader import Plan
from convatlas.data.module import ImageDataModule, deal_splits
from convatlas.data.normalization import set_background
from convatlas.data.opening import open_with_root
from convatlas.data.sampler import Indices
from convatlas.errors import UserError


class DetectionDataModule(ImageDataModule):
    """Images with objects in three splits: ``train``, ``val`` (for tuning) and ``test`` (reported, touched once).

    Args:
        name: The data set, as its configuration file is called.
        dataset: Finds the images: called with ``in_channels`` and, where there is one, ``root``.
        root: The folder of the data set; None for scenes that need none.
        num_classes: Number of classes that is expected; None takes what the class list has.
        in_channels: 1 for greyscale, 3 for RGB.
        image_size: Short side of an image in evaluation, in pixels.
        long_side: Most pixels of its long side; an image that would be longer is made smaller.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        background: The colour behind transparent pixels, 0 to 255 a channel; None shows the colour that is stored under
            the alpha.
        val_fraction: Share of the training images that becomes ``val`` where the data have no split of their own.
        global_batch_size: Images in one optimizer step, over all ranks and accumulation parts.
        threads: Loader threads of each rank.
        prefetch: Batches that each rank prepares ahead.
        seed: Seed of order and augmentation.
        on_error: What follows an image that cannot be decoded: ``raise`` ends the run; ``skip`` replaces it in
            training by the next one that can, and leaves it out of evaluations.
        augment: What is done to a training image and its objects; None for evaluation alone.
        split: The split that ``test_dataloader`` reads.
        fingerprint: What an image counts by in the identity of the data: its ``size`` in bytes, or its ``content``.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected; names the key.
    """

    problem = "detection"

    def __init__(
        self,
        *,
        name: Name,
        dataset: Callable[..., ObjectDataset],
        num_classes: int | None,
        in_channels: int,
        image_size: Side,
        long_side: Side,
        mean: list[float],
        std: list[float],
        val_fraction: float,
        global_batch_size: int,
        threads: int,
        prefetch: int,
        seed: int,
        on_error: Literal["raise", "skip"] = "raise",
        augment: ObjectAugmentation | None = None,
        root: str | None = None,
        split: Literal["train", "val", "test"] = "test",
        background: list[int] | None = None,
        fingerprint: Literal["size", "content"] = "size",
    ) -> None:
        super().__init__(
            name=name,
            in_channels=in_channels,
            mean=mean,
            std=std,
            global_batch_size=global_batch_size,
            threads=threads,
            prefetch=prefetch,
            seed=seed,
            on_error=on_error,
            split=split,
            fingerprint=fingerprint,
        )
        if not isinstance(augment, ObjectAugmentation | None):
            raise UserError(f"augment: it is for images without objects; data={name} expects augment=objects_flip")
        self.image_size = image_size
        resize = ResizeShortSide(short_sides=[image_size], long_side=long_side)
        self.evaluation = ObjectAugmentation(resize=resize)
        self.augment = self.evaluation if augment is None else replace(augment, resize=augment.resize or resize)
        found = open_with_root(dataset, name, in_channels, root)
        self.class_list = found.class_list
        self.check_classes(num_classes)
        self.sources: dict[Split, ObjectSource] = {
            "train": found.train,
            "val": found.val or found.train,
            "test": found.test,
        }
        set_background(self.sources.values(), background, in_channels)
        num_val = None if found.val is None else len(found.val.sizes)
        labels = np.zeros(len(found.train.sizes), np.int64)
        self.members = deal_splits(labels, num_val, len(found.test.sizes), val_fraction)
        sizes = found.train.sizes[self.members["train"]]
        self._upright = (sizes[:, 0] > sizes[:, 1]).astype(np.int64)

    @property
    def has_masks(self) -> bool:
        """Whether objects have masks."""
        return all(source.has_masks for source in self.sources.values())

    def objects(self, split: Split, index: int) -> Objects:
        """What is in one image of a split, as it is stored."""
        return self.sources[split].objects(int(self.members[split][index]))

    def check_labels(self, splits: Sequence[Split] = SPLITS) -> list[str]:
        """Count the objects of each class, without crowds and difficult ones.

        Args:
            splits: Those to look at.

        Returns:
            Warnings of one line: classes that do not occur in a split.

        Raises:
            UserError: There is no object to train on; names the annotations.
        """
        names = self.class_list.names
        found = {split: self.sources[split].count_objects(self.members[split], len(names)) for split in splits}
        counts = {split: of_class for split, of_class in found.items() if of_class is not None}
        if "train" in counts and not counts["train"].any():
            raise UserError(
                f"{self.sources['train'].where}: no object to train on in {self.num_samples('train'):,} training "
                "images; expected objects with an area in their image that are neither crowds nor difficult"
            )
        return absent_classes(self.name, "object", names, counts)

    def train_order(self, epoch: int, accumulation: int, **arguments: Any) -> list[Indices]:
        """The batches of this rank in an epoch: upright images and others apart."""
        return super().train_order(epoch, accumulation, kinds=self._upright, **arguments)

    def training_loader(self, plan: Plan, num_batches: int) -> ObjectLoader:
        """Augmented images with their objects."""
        return ObjectLoader(
            augmentation=self.augment,
            with_objects=True,
            **self.loader_arguments("train", plan, num_batches, training=True),
        )

    def evaluation_loader(self, split: Split, plan: Plan, num_batches: int) -> ObjectLoader:
        """Whole images."""
        return ObjectLoader(
            augmentation=self.evaluation,
            with_objects=False,
            **self.loader_arguments(split, plan, num_batches, training=False),
        )

    def on_after_batch_transfer(self, batch: ObjectBatch, dataloader_idx: int) -> ObjectBatch:
        """Normalise on the device; what surrounds an image stays zero."""
        images = self.normalised(batch.images)
        for image, (height, width) in zip(images, batch.sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return batch._replace(images=images)
