"""The LightningDataModule of image classification."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from convatlas.config.value_types import Name, Side
from convatlas.data.batch import Batch, ViewBatch, Views
from convatlas.data.classification.datasets import SPLITS, Dataset, Split
from convatlas.data.label_counts import absent_classes
from convatlas.data.loader import BatchMemory, Plan, ThreadedLoader
from convatlas.data.module import ImageDataModule, deal_splits
from convatlas.data.normalization import set_background
from convatlas.data.opening import open_with_root
from convatlas.data.sampler import Indices
from convatlas.data.sources.images import Source
from convatlas.data.transforms.image import Augmentation, CenterCrop
from convatlas.errors import UserError

BatchT = TypeVar("BatchT", Batch, ViewBatch)


class ClassificationDataModule(ImageDataModule):
    """Labelled images in three splits: ``train``, ``val`` (for tuning) and ``test`` (reported, touched once).

    Args:
        name: The data set, as its configuration file is called.
        dataset: Finds the images: called with ``in_channels`` and, where there is one, ``root``.
        root: The folder of the data set; None for the embedded one.
        num_classes: Number of classes that is expected; None takes what the class list has.
        in_channels: 1 for greyscale, 3 for RGB.
        image_size: Height and width that the network sees, in pixels.
        resize: Short side before the evaluation's centre crop, in pixels; None leaves images as they are.
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
        augment: What is done to a training image; None for evaluation alone.
        split: The split that ``test_dataloader`` reads.
        fingerprint: What an image counts by in the identity of the data: its ``size`` in bytes, or its ``content``.

    Attributes:
        views: The views of an image that a test protocol shows; None, as at first, is the central crop.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected; names the key.
    """

    problem = "classification"
    views: Views | None = None

    def __init__(
        self,
        *,
        name: Name,
        dataset: Callable[..., Dataset],
        num_classes: int | None,
        in_channels: int,
        image_size: Side,
        resize: Side | None,
        mean: list[float],
        std: list[float],
        val_fraction: float,
        global_batch_size: int,
        threads: int,
        prefetch: int,
        seed: int,
        on_error: Literal["raise", "skip"] = "raise",
        augment: Augmentation | None = None,
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
        self.image_size = image_size
        self._memory = BatchMemory()
        self.evaluation = Augmentation(crop=CenterCrop(resize=resize))
        self.augment = augment or self.evaluation

        found = open_with_root(dataset, name, in_channels, root)
        self.class_list = found.class_list
        self.passed_over = found.passed_over
        self.check_classes(num_classes)
        self.sources: dict[Split, Source] = {"train": found.train, "val": found.val or found.train, "test": found.test}
        set_background(self.sources.values(), background, in_channels)
        num_val = None if found.val is None else len(found.val.labels)
        self.members = deal_splits(found.train.labels, num_val, len(found.test.labels), val_fraction)

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
            splits: Those to look at.

        Returns:
            Warnings of one line: classes that do not occur in a split.
        """
        names = self.class_list.names
        counts = {
            split: np.bincount(self.sources[split].labels[self.members[split]], minlength=len(names))
            for split in splits
        }
        return absent_classes(self.name, "image", names, counts)

    def on_after_batch_transfer(self, batch: BatchT, dataloader_idx: int) -> BatchT:
        """Normalise on the device and augment further: (N, C, H, W) uint8 to float32, ``(x / 255 - mean) / std``."""
        if isinstance(batch, ViewBatch):
            return batch._replace(images=[[self.normalised(stack) for stack in views] for views in batch.images])
        return self.augment.on_device(batch._replace(images=self.normalised(batch.images)))

    def train_order(self, epoch: int, accumulation: int, **arguments: Any) -> list[Indices]:
        """The batches of this rank in an epoch: pairs stay together where they are mixed."""
        group = 1 if self.augment.mix is None else 2
        return super().train_order(epoch, accumulation, repeats=self.augment.repeats, group=group, **arguments)

    def training_loader(self, plan: Plan, num_batches: int) -> ThreadedLoader:
        """Augmented images."""
        return self._loader("train", plan, num_batches, self.augment, training=True)

    def evaluation_loader(self, split: Split, plan: Plan, num_batches: int) -> ThreadedLoader:
        """Central crops, or the views of a test protocol."""
        return self._loader(split, plan, num_batches, self.evaluation, self.views)

    def evaluation_batch_size(self, world_size: int) -> int:
        """Fewer images where each has several views."""
        return max(1, self.global_batch_size // world_size // (self.views.crops if self.views else 1))

    def _loader(
        self,
        split: Split,
        plan: Plan,
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
    """Build the data module of a configuration's ``data``, for verbs that are about images of classes.

    Raises:
        UserError: The data are for something else.
    """
    data = instantiate(config)
    if not isinstance(data, ClassificationDataModule):
        raise UserError(f"data={config.name} is for {data.problem}; this verb is for classification")
    return data
