"""The LightningDataModule of image classification."""

import hashlib
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from pytorch_lightning import LightningDataModule
from torch import Tensor

from convatlas.data.augment import Augmentation, CenterCrop
from convatlas.data.batch import Batch, ViewBatch
from convatlas.data.class_list import ClassList
from convatlas.data.dataset import Dataset, Split
from convatlas.data.loader import BatchMemory, Plan, ThreadedLoader
from convatlas.data.order import Indices, evaluation_batches, train_batches
from convatlas.data.skipped import SkippedImages
from convatlas.data.sources import Labels, Source
from convatlas.data.views import Views
from convatlas.errors import UserError

BatchT = TypeVar("BatchT", Batch, ViewBatch)


class ClassificationDataModule(LightningDataModule):
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
        val_fraction: Share of the training images that becomes ``val`` where the data have no split of their own.
        global_batch_size: Images in one optimizer step, over all ranks and accumulation parts.
        threads: Loader threads of each rank.
        prefetch: Batches that each rank prepares ahead.
        seed: Seed of order and augmentation.
        on_error: What follows an image that cannot be decoded: ``raise`` ends the run; ``skip`` replaces it in
            training by the next one that can, and leaves it out of evaluations.
        augment: What is done to a training image; None for evaluation alone.
        split: The split that ``test_dataloader`` reads.

    Attributes:
        views: The views of an image that a test protocol shows; None, as at first, is the central crop.
        skipped: The images that were left out.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected; names the key.
    """

    views: Views | None = None

    def __init__(
        self,
        *,
        name: str,
        dataset: Callable[..., Dataset],
        num_classes: int | None,
        in_channels: int,
        image_size: PositiveInt,
        resize: PositiveInt | None,
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
    ) -> None:
        super().__init__()
        if threads < 1 or prefetch < 0:
            raise UserError(
                f"data.threads={threads}, data.prefetch={prefetch}: expected at least 1 thread and 0 batches ahead"
            )
        if not len(mean) == len(std) == in_channels:
            raise UserError(f"data.mean and data.std: expected {in_channels} numbers each, as data.in_channels says")
        self.name = name
        self.in_channels = in_channels
        self.image_size = image_size
        self.mean, self.std = mean, std
        self.global_batch_size = global_batch_size
        self.threads, self.prefetch = threads, prefetch
        self.seed = seed
        self.split: Split = split
        self.on_error = on_error
        self.skipped = SkippedImages()
        self._memory = BatchMemory()
        self.evaluation = Augmentation(crop=CenterCrop(resize=resize))
        self.augment = augment or self.evaluation

        found = dataset(in_channels) if root is None else dataset(in_channels, root=root)
        self.class_list: ClassList = found.class_list
        if num_classes is not None and len(self.class_list.names) != num_classes:
            raise UserError(f"data.num_classes={num_classes}: {name} has {len(self.class_list.names)} classes")
        self.sources: dict[Split, Source] = {"train": found.train, "val": found.val or found.train, "test": found.test}
        if found.val is None:
            train, val = cut_val(found.train.labels, val_fraction)
        else:
            train, val = np.arange(len(found.train.labels)), np.arange(len(found.val.labels))
        self.members: dict[Split, NDArray[np.int64]] = {
            "train": train,
            "val": val,
            "test": np.arange(len(found.test.labels)),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 over classes, labels and names: another data set is another run."""
        digest = hashlib.sha256(self.class_list.hash.encode())
        for split in ("train", "val", "test"):
            digest.update(self.sources[split].fingerprint())
        return digest.hexdigest()

    def num_samples(self, split: Split) -> int:
        """Number of images of a split."""
        return len(self.members[split])

    def load(self, split: Split, index: int) -> Tensor:
        """One image of a split as it is stored, (C, H, W) uint8."""
        return self.sources[split].open(int(self.members[split][index])).pixels()

    def path(self, split: Split, index: int) -> str:
        """The name of one image of a split."""
        return self.sources[split].path(int(self.members[split][index]))

    def check_batch(self, world_size: int, accumulation: int) -> None:
        """Refuse a batch that cannot be dealt out.

        Raises:
            UserError: Naming ``data.global_batch_size``.
        """
        size = self.global_batch_size
        if size < 1 or size % (world_size * accumulation):
            raise UserError(
                f"data.global_batch_size={size}: expected a multiple of {world_size * accumulation} = "
                f"{world_size} ranks × {accumulation} accumulation"
            )
        if self.augment.mix is not None and size % (2 * world_size * accumulation):
            raise UserError(
                f"data.global_batch_size={size}: augment.mix takes pairs, expected a multiple of "
                f"{2 * world_size * accumulation} = 2 × {world_size} ranks × {accumulation} accumulation"
            )
        if size > self.num_samples("train"):
            raise UserError(
                f"data.global_batch_size={size}: {self.name} has only {self.num_samples('train')} training images"
            )
        for split in ("val", "test"):
            if self.num_samples(split) < world_size:
                raise UserError(
                    f"data.val_fraction: {self.name} has {self.num_samples(split)} {split} images, expected at least "
                    f"one for each of {world_size} ranks"
                )

    def train_dataloader(self) -> ThreadedLoader:
        """Augmented batches, shuffled anew each epoch."""
        accumulation = self.trainer.accumulate_grad_batches if self.trainer else 1
        rank, world_size = self._rank()
        num_samples, size = self.num_samples("train"), self.global_batch_size
        group = 1 if self.augment.mix is None else 2
        repeats = self.augment.repeats

        def plan() -> tuple[int, list[Indices]]:
            epoch = self.trainer.current_epoch if self.trainer else 0
            return epoch, train_batches(
                num_samples, size, accumulation, self.seed, epoch, rank, world_size, repeats=repeats, group=group
            )

        return self._loader("train", plan, num_samples // size * accumulation, self.augment, "replace")

    def val_dataloader(self) -> ThreadedLoader:
        """Every image of ``val`` once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> ThreadedLoader:
        """Every image of ``split`` once."""
        return self._evaluation_loader(self.split)

    def on_after_batch_transfer(self, batch: BatchT, dataloader_idx: int) -> BatchT:
        """Normalise on the device and augment further: (N, C, H, W) uint8 to float32, ``(x / 255 - mean) / std``."""
        if isinstance(batch, ViewBatch):
            return batch._replace(images=[[self._normalised(stack) for stack in views] for views in batch.images])
        return self.augment.on_device(batch._replace(images=self._normalised(batch.images)))

    def _normalised(self, images: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (images / 255).sub_(mean).div_(std)

    def _evaluation_loader(self, split: Split) -> ThreadedLoader:
        rank, world_size = self._rank()
        size = max(1, self.global_batch_size // world_size // (self.views.crops if self.views else 1))
        batches = evaluation_batches(self.num_samples(split), size, rank, world_size)
        return self._loader(split, lambda: (0, batches), len(batches), self.evaluation, "drop", self.views)

    def _loader(
        self,
        split: Split,
        plan: Plan,
        num_batches: int,
        augmentation: Augmentation,
        on_error: Literal["replace", "drop"],
        views: Views | None = None,
    ) -> ThreadedLoader:
        return ThreadedLoader(
            source=self.sources[split],
            members=self.members[split],
            plan=plan,
            num_batches=num_batches,
            augmentation=augmentation,
            in_channels=self.in_channels,
            image_size=self.image_size,
            seed=self.seed,
            threads=self.threads,
            prefetch=self.prefetch,
            on_error="raise" if self.on_error == "raise" else on_error,
            skipped=self.skipped,
            memory=self._memory,
            views=views,
        )

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def cut_val(labels: Labels, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a tuning split from the training images: the same share of every class, the same images for every seed.

    Args:
        labels: Classes of the training images, (N,).
        fraction: Share of each class, at least one image.

    Returns:
        Positions of what stays for training, and of the tuning split, both ascending.

    Raises:
        UserError: A class would be left without training images.
    """
    if not 0 < fraction < 1:
        raise UserError(f"data.val_fraction={fraction}: expected a share between 0 and 1")
    generator = np.random.default_rng(0)  # not the run's seed: all seeds tune on the same images
    chosen = np.zeros(len(labels), np.bool_)
    of_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    for label, members in enumerate(of_class):
        count = max(1, round(fraction * len(members)))
        if count >= len(members) > 0:
            raise UserError(
                f"data.val_fraction={fraction}: class {label} has {len(members)} training images, none would be left"
            )
        chosen[generator.permutation(members)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
