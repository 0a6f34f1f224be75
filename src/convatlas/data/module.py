"""The base class of the data modules: splits, ranks, order of samples, normalisation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor

from convatlas.config.value_types import Name, Side
from convatlas.data.dataset import SPLITS, Dataset, ImageSource, Split
from convatlas.data.digests import FileDigests, combined
from convatlas.data.images.decode import Background
from convatlas.data.loader import BatchPlan, PrefetchingLoader
from convatlas.data.normalization import check_mean, check_std, set_background
from convatlas.data.opening import open_with_root
from convatlas.data.sampler import Indices, evaluation_batches, train_batches
from convatlas.data.skipped import SkippedImages
from convatlas.data.sources.images import Labels
from convatlas.errors import UserError


class ImageDataModule(LightningDataModule, ABC):
    """Images in three splits: ``train``, ``val`` (for tuning) and ``test`` (reported, used once after training).

    Args:
        name: Name of the data set, which is the name of its configuration file.
        dataset: Finds the images. It is called with ``in_channels`` and, if ``root`` is given, with ``root``.
        num_classes: Expected number of classes; None accepts the number in the class list.
        in_channels: 1 for greyscale, 3 for RGB.
        image_size: Height and width of the network's input, in pixels.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel, of pixels in [0, 1].
        val_fraction: Share of the training images that becomes ``val`` if the data set has no ``val``.
        global_batch_size: Images in one optimizer step, over all ranks and accumulation parts.
        threads: Number of loader threads of each rank.
        prefetch: Number of batches that each rank prepares ahead.
        seed: Seed of order and augmentation.
        on_error: What happens if an image or mask cannot be used. ``raise`` ends the run. ``skip`` replaces it by the
            next usable one in training and leaves it out in evaluations.
        root: The folder of the data set; None for a data set without files.
        split: The split that ``test_dataloader`` reads.
        background: The colour behind transparent pixels, 0 to 255 in each channel. None ignores the alpha channel.
        fingerprint: Whether the fingerprint of the data covers the ``size`` of images in bytes or their ``content``.

    Attributes:
        class_list: The classes, in order.
        sources: The source of each split.
        indices: Positions of the samples of each split in its source, (N,).
        skipped: The images that were left out.
        passed_over: Number of files in the folders that are not images of the data set, by suffix.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected, or arguments contradict
            each other. The message names the key.
    """

    task_type: ClassVar[str]
    """``classification``, ``segmentation`` or ``detection``. The task must have the same type."""
    sources: Mapping[Split, ImageSource]

    def __init__(
        self,
        *,
        name: Name,
        dataset: Callable[..., Dataset[ImageSource]],
        num_classes: int | None,
        in_channels: int,
        image_size: Side,
        mean: list[float],
        std: list[float],
        val_fraction: float,
        global_batch_size: int,
        threads: int,
        prefetch: int,
        seed: int,
        on_error: Literal["raise", "skip"] = "raise",
        root: str | None = None,
        split: Split = "test",
        background: list[int] | None = None,
        fingerprint: Literal["size", "content"] = "size",
    ) -> None:
        super().__init__()
        if threads < 1 or prefetch < 0:
            raise UserError(
                f"data.threads={threads}, data.prefetch={prefetch}: expected at least 1 thread and 0 batches ahead"
            )
        if not len(mean) == len(std) == in_channels:
            raise UserError(f"data.mean and data.std: expected {in_channels} numbers each, as data.in_channels says")
        check_mean("data.mean", mean)
        check_std("data.std", std)
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
        self._file_digests = FileDigests(fingerprint)
        self._open_splits(open_with_root(dataset, name, in_channels, root), num_classes, background, val_fraction)

    def _open_splits(
        self, found: Dataset[ImageSource], num_classes: int | None, background: Background, val_fraction: float
    ) -> None:
        self.class_list = found.class_list
        self.passed_over = found.passed_over
        self.check_classes(num_classes)
        self.sources = {
            "train": found.train,
            "val": found.train if found.val is None else found.val,
            "test": found.test,
        }
        set_background(self.sources.values(), background, self.in_channels)
        num_val = None if found.val is None else len(found.val)
        self.indices = deal_splits(self.strata(), num_val, len(found.test), val_fraction)

    def strata(self) -> Labels:
        """Return the class of each training image, (N,), or zeros. ``val`` gets the same share of each class."""
        return np.zeros(len(self.sources["train"]), np.int64)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the classes and of each part of each split, such as ``train/masks``.

        Files are read at first use. A ``val`` that is cut from ``train`` has no digests of its own.
        """
        cut = self.sources["val"] is self.sources["train"]
        sources = {split: source for split, source in self.sources.items() if split != "val" or not cut}
        return {"classes": self.class_list.hash, **source_digests(sources, self._file_digests)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ``digests``. It is a part of the identity of a run."""
        return combined(self.digests)

    def check_classes(self, num_classes: int | None) -> None:
        """Refuse a number of classes that differs from the class list; None is accepted."""
        if num_classes is not None and len(self.class_list.names) != num_classes:
            raise UserError(f"data.num_classes={num_classes}: {self.name} has {len(self.class_list.names)} classes")

    def num_samples(self, split: Split) -> int:
        """Return the number of images of a split."""
        return len(self.indices[split])

    def load(self, split: Split, index: int) -> Tensor:
        """Load one image of a split without augmentation, (C, H, W) uint8."""
        return self.sources[split].open(int(self.indices[split][index])).pixels()

    def path(self, split: Split, index: int) -> str:
        """Return the name of one image of a split."""
        return self.sources[split].path(int(self.indices[split][index]))

    def check_batch(self, world_size: int, accumulation: int) -> None:
        """Refuse a batch size that cannot be divided between the ranks and accumulation parts, or is too large.

        Raises:
            UserError: The batch size does not fit, or ``val`` or ``test`` has fewer images than there are ranks.
        """
        size = self.global_batch_size
        if size < 1 or size % (world_size * accumulation):
            raise UserError(
                f"data.global_batch_size={size}: expected a multiple of {world_size * accumulation} = "
                f"{world_size} ranks × {accumulation} accumulation"
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

    @abstractmethod
    def check_labels(self, splits: Sequence[Split] = SPLITS) -> list[str]:
        """Find classes that do not occur in a split.

        Args:
            splits: The splits to check.

        Returns:
            Warnings, one line each.

        Raises:
            UserError: Training with these labels would be useless.
        """

    def train_dataloader(self) -> PrefetchingLoader:
        """Return the loader of augmented batches, which are shuffled in each epoch."""
        accumulation = self.trainer.accumulate_grad_batches if self.trainer else 1
        num_batches = self.num_samples("train") // self.global_batch_size * accumulation

        def plan() -> tuple[int, list[Indices]]:
            epoch = self.trainer.current_epoch if self.trainer else 0
            return epoch, self.train_order(epoch, accumulation)

        return self.training_loader(plan, num_batches)

    def val_dataloader(self) -> PrefetchingLoader:
        """Return a loader that yields every image of ``val`` once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> PrefetchingLoader:
        """Return a loader that yields every image of ``split`` once."""
        return self._evaluation_loader(self.split)

    def train_order(self, epoch: int, accumulation: int, **arguments: Any) -> list[Indices]:
        """Return the batches of this rank in an epoch. Other ``arguments`` are passed to ``train_batches``."""
        rank, world_size = self._rank()
        size = self.global_batch_size
        return train_batches(
            self.num_samples("train"), size, accumulation, self.seed, epoch, rank, world_size, **arguments
        )

    @abstractmethod
    def training_loader(self, plan: BatchPlan, num_batches: int) -> PrefetchingLoader:
        """Build the loader of augmented batches."""

    @abstractmethod
    def evaluation_loader(self, split: Split, plan: BatchPlan, num_batches: int) -> PrefetchingLoader:
        """Build the loader of a split for evaluation."""

    def evaluation_batch_size(self, world_size: int) -> int:
        """Return the number of images in a batch of one rank in an evaluation."""
        return max(1, self.global_batch_size // world_size)

    def loader_arguments(self, split: Split, plan: BatchPlan, num_batches: int, *, training: bool) -> dict[str, Any]:
        """Return the arguments that all loaders take."""
        on_error = "raise" if self.on_error == "raise" else "replace" if training else "drop"
        return {
            "source": self.sources[split],
            "indices": self.indices[split],
            "plan": plan,
            "num_batches": num_batches,
            "seed": self.seed,
            "threads": self.threads,
            "prefetch": self.prefetch,
            "on_error": on_error,
            "skipped": self.skipped,
        }

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images (…, C, H, W) uint8 to float32, ``(x / 255 - mean) / std``."""
        mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return (images / 255).sub_(mean).div_(std)

    def _evaluation_loader(self, split: Split) -> PrefetchingLoader:
        rank, world_size = self._rank()
        size = self.evaluation_batch_size(world_size)
        batches = evaluation_batches(self.num_samples(split), size, rank, world_size)
        return self.evaluation_loader(split, lambda: (0, batches), len(batches))

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def source_digests(sources: Mapping[Any, ImageSource], files: FileDigests) -> dict[str, str]:
    """Compute the digests of several sources by name, such as ``train/masks``.

    Args:
        sources: The sources by split.
        files: Computes the digests of files.
    """
    return {
        f"{split}/{part}": digest for split, source in sources.items() for part, digest in source.digests(files).items()
    }


def deal_splits(
    labels: Labels, num_val: int | None, num_test: int, val_fraction: float
) -> dict[Split, NDArray[np.int64]]:
    """Choose the images of each split.

    Args:
        labels: Classes of the training images, (N,); zeros if images have no class.
        num_val: Number of images of the tuning split; None cuts it from the training images.
        num_test: Number of images of the reported split.
        val_fraction: Share of each class that is cut for the tuning split.

    Returns:
        Positions of the images by split. If ``val`` is cut, its positions refer to the training source.

    Raises:
        UserError: A class would be left without training images.
    """
    everything = np.arange(len(labels))
    train, val = cut_val(labels, val_fraction) if num_val is None else (everything, np.arange(num_val))
    return {"train": train, "val": val, "test": np.arange(num_test)}


def cut_val(labels: Labels, fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut a tuning split from the training images.

    It has the same share of every class, and the same images for every seed.

    Args:
        labels: Classes of the training images, (N,).
        fraction: Share of each class, at least one image.

    Returns:
        Positions of the remaining training images and of the tuning split, both ascending.

    Raises:
        UserError: A class would be left without training images.
    """
    if not 0 < fraction < 1:
        raise UserError(f"data.val_fraction={fraction}: expected a share between 0 and 1")
    generator = np.random.default_rng(0)  # independent of the run's seed: all seeds tune on the same images
    chosen = np.zeros(len(labels), np.bool_)
    of_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    for label, indices in enumerate(of_class):
        count = max(1, round(fraction * len(indices)))
        if count >= len(indices) > 0:
            raise UserError(
                f"data.val_fraction={fraction}: class {label} has {len(indices)} training images, none would be left"
            )
        chosen[generator.permutation(indices)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
