"""A data loader with threads, which decode, crop and resize images directly into the batch and prefetch batches.

Decoding, resizing and copying release the interpreter lock. Therefore threads can replace worker processes, without
their start-up time, copies and shared memory.
"""

import math
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.batch import Batch, ViewBatch, Views
from convatlas.data.dataset import ImageSource
from convatlas.data.images.decode import ImageError
from convatlas.data.sampler import Indices
from convatlas.data.skipped import SkippedImages
from convatlas.data.sources.images import LabelledSource
from convatlas.data.transforms.image import Augmentation

BatchPlan = Callable[[], tuple[int, Sequence[Indices]]]
"""Returns the epoch and the samples of its batches. It is called when an iteration starts."""


class PrefetchingLoader(ABC):
    """Iterates over the batches of one split. Threads prepare a limited number of batches ahead.

    A subclass for a task type implements ``load``, which prepares one sample, and ``collate``, which makes a batch.

    The augmentation of a sample uses a generator with the seed (seed, epoch, entry). Therefore the batches do not
    depend on the number of threads. Lightning stores ``state_dict()`` in its checkpoints, so that training can resume
    within an epoch.

    Args:
        source: The images.
        indices: Positions in the source of the split's samples, (N,).
        plan: Returns the epoch and its batches; called when an iteration starts. The entry of copy c of the sample at
            position i of the split is ``i + c * N``.
        num_batches: Number of batches.
        seed: The run's seed.
        threads: Number of threads.
        prefetch: Number of batches that are prepared ahead.
        on_error: What happens if an image cannot be decoded: ``raise`` the error; ``replace`` the image by the next one
            of the split that can be decoded; or ``drop`` it, which makes its batch smaller.
        skipped: Counts the images that are replaced or dropped.

    Raises:
        ImageError: An image cannot be decoded. The error is raised when its batch is requested.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        indices: NDArray[np.int64],
        plan: BatchPlan,
        num_batches: int,
        seed: int,
        threads: int,
        prefetch: int,
        on_error: Literal["raise", "replace", "drop"],
        skipped: SkippedImages,
    ) -> None:
        self.source = source
        self.indices = indices
        self.plan = plan
        self.num_batches = num_batches
        self.seed = seed
        self.threads = threads
        self.prefetch = prefetch
        self.on_error = on_error
        self.skipped = skipped
        self._position = {"epoch": 0, "batches": 0}
        self._resuming = False

    def __len__(self) -> int:
        return self.num_batches

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of its batches that were yielded."""
        return dict(self._position)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration skip the batches that were yielded, if it is in the same epoch."""
        self._position = dict(state)
        self._resuming = True

    def __iter__(self) -> Iterator[Any]:
        epoch, batches = self.plan()
        start = self._position["batches"] if self._resuming and self._position["epoch"] == epoch else 0
        self._position = {"epoch": epoch, "batches": start}
        self._resuming = False
        waiting: deque[Callable[[], Any]] = deque()
        upcoming = iter(batches[start:])
        # Each loader thread uses one core: with OpenMP threads of their own, they would oversubscribe the cores.
        # get_num_threads fixes the caller's number of threads first; otherwise it would become 1 too.
        torch.get_num_threads()
        pool = ThreadPoolExecutor(
            self.threads, thread_name_prefix="loader", initializer=torch.set_num_threads, initargs=(1,)
        )
        try:
            while True:
                while len(waiting) < self.prefetch + 1 and (entries := next(upcoming, None)) is not None:
                    waiting.append(self._start(pool, entries, epoch))
                if not waiting:
                    return
                batch = waiting.popleft()()
                self._position["batches"] += 1
                if len(batch.labels):  # false if all samples were dropped
                    yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def allocate(self, count: int, epoch: int) -> Any:
        """Allocate the memory of a batch, to which its samples are written; None if each sample has its own.

        Args:
            count: Number of samples.
            epoch: The epoch, counted from zero.
        """
        return None

    @abstractmethod
    def load(self, position: int, generator: np.random.Generator, memory: Any, row: int) -> Any:
        """Prepare one sample. Several threads call this method at once.

        Args:
            position: Position in the source.
            generator: The random generator of the sample.
            memory: The return value of ``allocate`` for the batch.
            row: The row of the sample in ``memory``.
        """

    @abstractmethod
    def collate(self, samples: Mapping[int, Any], indices: Tensor, memory: Any) -> Any:
        """Make a batch.

        Args:
            samples: The return values of ``load`` by row, in order. Rows of dropped samples are absent.
            indices: Position of each sample in the split, (N,) int64.
            memory: The return value of ``allocate`` for the batch.
        """

    def _start(self, pool: ThreadPoolExecutor, entries: Indices, epoch: int) -> Callable[[], Any]:
        """Submit a batch to the pool. The returned function waits for it and raises the first error of a thread."""
        memory = self.allocate(len(entries), epoch)
        # Several samples per task, because submitting a task costs more time than decoding a small image.
        parts = [rows for rows in np.array_split(np.arange(len(entries)), 2 * self.threads) if len(rows)]
        tasks = [pool.submit(self._load_rows, rows, entries[rows], epoch, memory) for rows in parts]

        def result() -> Any:
            loaded = [sample for task in tasks for sample in task.result()]
            indices = torch.tensor([index for _, index, _ in loaded], dtype=torch.int64)
            return self.collate({row: sample for row, _, sample in loaded}, indices, memory)

        return result

    def _load_rows(self, rows: Indices, entries: Indices, epoch: int, memory: Any) -> list[tuple[int, int, Any]]:
        """Load some rows of a batch. Returns row, position in the split and sample for each that is not dropped."""
        loaded = []
        for row, entry in zip(rows.tolist(), entries.tolist(), strict=True):
            found = self._load_entry(entry, epoch, memory, row)
            if found is not None:
                loaded.append((row, *found))
        return loaded

    def _load_entry(self, entry: int, epoch: int, memory: Any, row: int) -> tuple[int, Any] | None:
        """Load the sample of an entry, or its replacement; None if it is dropped."""
        num_samples = len(self.indices)
        for candidate in range(entry, entry + num_samples):
            index = candidate % num_samples
            position = int(self.indices[index])
            # A replacement gets another augmentation than its own entry in the epoch.
            entries = [entry] if candidate == entry else [entry, candidate]
            try:
                return index, self.load(position, np.random.default_rng([self.seed, epoch, *entries]), memory, row)
            except ImageError as error:
                if self.on_error == "raise":
                    raise
                self.skipped.add(error)
                if self.on_error == "drop":
                    return None
            except Exception as error:
                error.add_note(f"while loading {self.source.path(position)}")
                raise
        raise ImageError("data.on_error=skip", "damaged", "none of the images can be decoded")


class ThreadedLoader(PrefetchingLoader):
    """Yields a ``Batch`` of images of one size, or a ``ViewBatch`` if ``views`` is given.

    Args:
        source: The images with their labels.
        augmentation: Augmentation of an image.
        views: Cuts the views of a test protocol, in place of the augmentation.
        in_channels: Number of channels of a batch.
        image_size: Height and width of a batch in pixels, if the augmentation does not define them.
        memory: Provides the memory of batches. Loaders that do not iterate at the same time share it.
        arguments: The arguments of ``PrefetchingLoader``.
    """

    source: LabelledSource

    def __init__(
        self,
        *,
        augmentation: Augmentation,
        in_channels: int,
        image_size: int,
        memory: "BatchMemory",
        views: Views | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.augmentation = augmentation
        self.in_channels = in_channels
        self.image_size = image_size
        self.memory = memory
        self.views = views

    def allocate(self, count: int, epoch: int) -> tuple[Tensor, Tensor | None] | None:
        """Allocate the images and the random parameters for the device; None for a batch of views."""
        if self.views is not None:
            return None
        size = self.augmentation.size(epoch) or self.image_size
        with torch.inference_mode(False):  # other threads cannot write to inference tensors
            images = self.memory.batch(count, self.in_channels, size)
            width = self.augmentation.random_parameters
            random_parameters = torch.empty(count, width) if width else None
        return images, random_parameters

    def load(
        self, position: int, generator: np.random.Generator, memory: tuple[Tensor, Tensor | None], row: int
    ) -> list[Tensor] | None:
        """Write an augmented image to its row, or return its views."""
        picture = self.source.open(position)
        if self.views is not None:
            return self.views(picture.pixels())
        images, random_parameters = memory
        self.augmentation.show(picture, generator, images[row])
        if random_parameters is not None:
            self.augmentation.draw(generator, images.shape[-1], random_parameters[row])
        return None

    def collate(
        self, samples: Mapping[int, list[Tensor] | None], indices: Tensor, memory: tuple[Tensor, Tensor | None]
    ) -> Batch | ViewBatch:
        """Make a batch of the rows that are not dropped."""
        labels = torch.from_numpy(self.source.labels[self.indices[indices.numpy()]].astype(np.int64))
        if self.views is not None:
            return ViewBatch([views for views in samples.values() if views is not None], labels, indices)
        images, random_parameters = memory
        if len(samples) < len(images):
            images = images[list(samples)]
        return Batch(images, labels, indices, random_parameters)


class BatchMemory:
    """Allocates the memory of batches, and reuses it when a batch is no longer referenced.

    New memory would cause a page fault every 4 KiB. PyTorch's allocator of pinned memory reuses memory itself.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def batch(self, count: int, channels: int, size: int) -> Tensor:
        """Return an uninitialised batch (N, C, H, W) uint8, channels last in memory."""
        shape = (count, size, size, channels)
        if torch.cuda.is_available():
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True).permute(0, 3, 1, 2)
        needed = math.prod(shape)
        block = self._free.pop() if self._free else np.empty(0, np.uint8)
        if block.size < needed:
            block = np.empty(needed, np.uint8)
        view = block[:needed]
        weakref.finalize(view, self._free.append, block).atexit = False  # the tensor holds the view
        return torch.from_numpy(view).view(shape).permute(0, 3, 1, 2)
