"""Base class of the data modules: splits, ranks, the order of samples, normalisation."""

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
    """Images in three splits: ``train``, ``val`` (for tuning) and ``test`` (reported, touched once).

    Args:
        name: The data set, as its configuration file is called.
        dataset: Finds the images: called with ``in_channels`` and, where there is one, ``root``.
        num_classes: Number of classes that is expected; None takes what the class list has.
        in_channels: 1 for greyscale, 3 for RGB.
        image_size: Height and width that the network sees, in pixels.
        mean: Mean of each channel, of pixels in [0, 1].
        std: Standard deviation of each channel.
        val_fraction: Share of the training images that becomes ``val`` where the data have no split of their own.
        global_batch_size: Images in one optimizer step, over all ranks and accumulation parts.
        threads: Loader threads of each rank.
        prefetch: Batches that each rank prepares ahead.
        seed: Seed of order and augmentation.
        on_error: What to do with an image or mask that cannot be used: ``raise`` ends the run; ``skip`` replaces it in
            training by the next one that can, and leaves it out of evaluations.
        root: The folder of the data set; None for one without files.
        split: The split that ``test_dataloader`` reads.
        background: The colour behind transparent pixels, 0 to 255 a channel; None shows the colour that is stored under
            the alpha.
        fingerprint: How an image enters the identity of the data: by its ``size`` in bytes, or by its ``content``.

    Attributes:
        class_list: The classes, in order.
        sources: The images by split.
        indices: Positions in its source of each split's samples, (N,).
        skipped: The images that were left out.
        passed_over: Number of files in the folders that are not among the images, by suffix.

    Raises:
        UserError: The data are missing, empty, too small or of other classes than expected, or numbers do not fit
            together; names the key.
    """

    task_type: ClassVar[str]
    """``classification``, ``segmentation`` or ``detection``; the task has the same."""
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
        """Class of each training image, (N,): ``val`` gets the same share of each. Zeros if images have no class."""
        return np.zeros(len(self.sources["train"]), np.int64)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the classes and of each part of each split, such as ``train/masks``.

        Files are read at first use. A ``val`` that is cut from ``train`` has no part of its own.
        """
        cut = self.sources["val"] is self.sources["train"]
        sources = {split: source for split, source in self.sources.items() if split != "val" or not cut}
        return {"classes": self.class_list.hash, **source_digests(sources, self._file_digests)}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of ``digests``: another data set is another run."""
        return combined(self.digests)

    def check_classes(self, num_classes: int | None) -> None:
        """Refuse a number of classes that is not the class list's; None takes what there are."""
        if num_classes is not None and len(self.class_list.names) != num_classes:
            raise UserError(f"data.num_classes={num_classes}: {self.name} has {len(self.class_list.names)} classes")

    def num_samples(self, split: Split) -> int:
        """Number of images of a split."""
        return len(self.indices[split])

    def load(self, split: Split, index: int) -> Tensor:
        """One image of a split as it is stored, (C, H, W) uint8."""
        return self.sources[split].open(int(self.indices[split][index])).pixels()

    def path(self, split: Split, index: int) -> str:
        """The name of one image of a split."""
        return self.sources[split].path(int(self.indices[split][index]))

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
        """Find classes that do not occur in a split; a ``UserError`` where training would be in vain.

        Args:
            splits: Those to look at.

        Returns:
            Warnings of one line.
        """

    def train_dataloader(self) -> PrefetchingLoader:
        """Augmented batches, shuffled anew each epoch."""
        accumulation = self.trainer.accumulate_grad_batches if self.trainer else 1
        num_batches = self.num_samples("train") // self.global_batch_size * accumulation

        def plan() -> tuple[int, list[Indices]]:
            epoch = self.trainer.current_epoch if self.trainer else 0
            return epoch, self.train_order(epoch, accumulation)

        return self.training_loader(plan, num_batches)

    def val_dataloader(self) -> PrefetchingLoader:
        """Every image of ``val`` once."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> PrefetchingLoader:
        """Every image of ``split`` once."""
        return self._evaluation_loader(self.split)

    def train_order(self, epoch: int, accumulation: int, **arguments: Any) -> list[Indices]:
        """The batches of this rank in an epoch; ``arguments`` are further ones of ``train_batches``."""
        rank, world_size = self._rank()
        size = self.global_batch_size
        return train_batches(
            self.num_samples("train"), size, accumulation, self.seed, epoch, rank, world_size, **arguments
        )

    @abstractmethod
    def training_loader(self, plan: BatchPlan, num_batches: int) -> PrefetchingLoader:
        """The loader of augmented batches."""

    @abstractmethod
    def evaluation_loader(self, split: Split, plan: BatchPlan, num_batches: int) -> PrefetchingLoader:
        """The loader of a split's images as an evaluation sees them."""

    def evaluation_batch_size(self, world_size: int) -> int:
        """Images of a rank's batch in an evaluation."""
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
        """Images (…, C, H, W) uint8 as the network sees them: float32, ``(x / 255 - mean) / std``."""
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
    """The digests of several sources, such as ``train/masks``.

    Args:
        sources: The sources by split.
        files: Digests their files.
    """
    return {
        f"{split}/{part}": digest for split, source in sources.items() for part, digest in source.digests(files).items()
    }


def deal_splits(
    labels: Labels, num_val: int | None, num_test: int, val_fraction: float
) -> dict[Split, NDArray[np.int64]]:
    """Choose the images of each split.

    Args:
        labels: Classes of the training images, (N,); zeros where images have no class of their own.
        num_val: Number of images of the tuning split; None cuts it from the training images.
        num_test: Number of images of the reported split.
        val_fraction: Share of each class to cut.

    Returns:
        Positions by split; ``val`` is of the training source where it is cut.

    Raises:
        UserError: A class would be left without training images.
    """
    everything = np.arange(len(labels))
    train, val = cut_val(labels, val_fraction) if num_val is None else (everything, np.arange(num_val))
    return {"train": train, "val": val, "test": np.arange(num_test)}


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
    for label, indices in enumerate(of_class):
        count = max(1, round(fraction * len(indices)))
        if count >= len(indices) > 0:
            raise UserError(
                f"data.val_fraction={fraction}: class {label} has {len(indices)} training images, none would be left"
            )
        chosen[generator.permutation(indices)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
