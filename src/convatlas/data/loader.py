"""A loader of threads: they decode, crop and resize straight into the batch, a bounded number of batches ahead.

Decoding, resizing and copying release the interpreter lock, so threads do what worker processes do, without their
start-up, copies and shared memory.
"""

import math
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.batch import Batch, ViewBatch, Views
from convatlas.data.images.decode import ImageError
from convatlas.data.sampler import Indices
from convatlas.data.skipped import SkippedImages
from convatlas.data.sources.images import Source
from convatlas.data.transforms.image import Augmentation

SampleT = TypeVar("SampleT")

Plan = Callable[[], tuple[int, Sequence[Indices]]]
"""Says, as an iteration starts, which epoch it is and which samples make up its batches."""


class NamedSource(Protocol):
    """Images that have names."""

    def path(self, index: int) -> str:
        """Name one image for a message."""


class Pending(Protocol):
    """A batch that threads are preparing."""

    def result(self) -> Any:
        """Wait for the batch; the first error of a thread is raised here."""


class PrefetchingLoader(ABC):
    """Iterates over the batches of one split, a bounded number of which threads prepare ahead.

    A sample's augmentation is drawn from a generator seeded with (seed, epoch, entry): the batches do not depend on
    the number of threads. Lightning keeps ``state_dict()`` in its checkpoints, so that training goes on in mid-epoch.

    Args:
        source: The images.
        members: Positions in the source of the split's samples, (N,).
        plan: The epoch and its batches, asked at the start of each iteration. An entry of a batch is a position in
            the split, plus N for each copy of the same sample that the epoch has besides.
        num_batches: How many there are.
        seed: The run's seed.
        threads: Number of threads.
        prefetch: Batches prepared ahead.
        on_error: What follows an image that cannot be decoded: ``raise``; ``replace`` it by the split's next one that
            can; or ``drop`` it, which leaves its batch smaller.
        skipped: Where replaced and dropped images are counted.

    Raises:
        ImageError: An image cannot be decoded; arrives at the batch.
    """

    def __init__(
        self,
        *,
        source: NamedSource,
        members: NDArray[np.int64],
        plan: Plan,
        num_batches: int,
        seed: int,
        threads: int,
        prefetch: int,
        on_error: Literal["raise", "replace", "drop"],
        skipped: SkippedImages,
    ) -> None:
        self.named = source
        self.members = members
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
        """The epoch, and how many of its batches were handed out."""
        return dict(self._position)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Let the next iteration go on behind those batches, if it is still that epoch."""
        self._position = dict(state)
        self._resuming = True

    def __iter__(self) -> Iterator[Any]:
        epoch, batches = self.plan()
        start = self._position["batches"] if self._resuming and self._position["epoch"] == epoch else 0
        self._position = {"epoch": epoch, "batches": start}
        self._resuming = False
        waiting: deque[Pending] = deque()
        upcoming = iter(batches[start:])
        # Each thread computes alone: with a team of OpenMP threads behind each, they would crowd the cores. To ask
        # first settles the caller's own number, which would otherwise become 1 too.
        torch.get_num_threads()
        pool = ThreadPoolExecutor(
            self.threads, thread_name_prefix="loader", initializer=torch.set_num_threads, initargs=(1,)
        )
        try:
            while True:
                while len(waiting) < self.prefetch + 1 and (entries := next(upcoming, None)) is not None:
                    waiting.append(self.start(pool, entries, epoch))
                if not waiting:
                    return
                batch = waiting.popleft().result()
                self._position["batches"] += 1
                if len(batch.labels):  # or all of it was dropped
                    yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    @abstractmethod
    def start(self, pool: ThreadPoolExecutor, entries: Indices, epoch: int) -> "Pending":
        """Let the pool prepare a batch."""

    def read(
        self, entry: int, epoch: int, show: Callable[[int, int, np.random.Generator], SampleT]
    ) -> tuple[int, SampleT] | None:
        """Show one sample, or what takes its place.

        Args:
            entry: Of the batch.
            epoch: Counted from zero.
            show: Called with a position in the split, one in the source, and the sample's random generator.

        Returns:
            The position in the split of what is shown, and what ``show`` returned; None where it is dropped.
        """
        num_samples = len(self.members)
        for candidate in range(entry, entry + num_samples):
            index = candidate % num_samples
            member = int(self.members[index])
            try:
                # A replacement must not repeat what its own entry of the epoch shows.
                entries = [entry] if candidate == entry else [entry, candidate]
                return index, show(index, member, np.random.default_rng([self.seed, epoch, *entries]))
            except ImageError as error:
                if self.on_error == "raise":
                    raise
                self.skipped.add(error)
                if self.on_error == "drop":
                    return None
            except Exception as error:
                error.add_note(f"while loading {self.named.path(member)}")
                raise
        raise ImageError("data.on_error=skip", "damaged", "none of the images can be decoded")


class ThreadedLoader(PrefetchingLoader):
    """Yields a ``Batch`` of images of one size, or a ``ViewBatch`` where there are ``views``.

    Args:
        source: The images, with their labels.
        augmentation: What is done to an image.
        views: A test protocol's views of an image in place of the augmentation.
        in_channels: Channels of a batch.
        image_size: Height and width of a batch in pixels, where the augmentation has no schedule for it.
        memory: Where batches come from; loaders that take turns share it.
        arguments: Those of ``PrefetchingLoader``.
    """

    def __init__(
        self,
        *,
        source: Source,
        augmentation: Augmentation,
        in_channels: int,
        image_size: int,
        memory: "BatchMemory",
        views: Views | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(source=source, **arguments)
        self.source = source
        self.augmentation = augmentation
        self.in_channels = in_channels
        self.image_size = image_size
        self.memory = memory
        self.views = views

    def start(self, pool: ThreadPoolExecutor, entries: Indices, epoch: int) -> "_Work":
        """Let the pool fill a batch, a few rows a task."""
        indices = entries % len(self.members)
        labels = torch.from_numpy(self.source.labels[self.members[indices]].astype(np.int64))
        batch: Batch | ViewBatch
        if self.views is None:
            size = self.augmentation.size(epoch) or self.image_size
            with torch.inference_mode(False):  # an evaluation's tensors could not be written by other threads
                images = self.memory.batch(len(entries), self.in_channels, size)
                draws = torch.empty(len(entries), self.augmentation.draws) if self.augmentation.draws else None
            batch = Batch(images, labels, torch.from_numpy(indices), draws)
        else:
            batch = ViewBatch([[] for _ in entries], labels, torch.from_numpy(indices))
        # A few samples a task: a task each costs more than decoding a small image.
        rows = [part for part in np.array_split(np.arange(len(entries)), 2 * self.threads) if len(part)]
        work = _Work(batch)
        work.parts = [pool.submit(self._fill, work, part, entries[part], epoch) for part in rows]
        return work

    def _fill(self, work: "_Work", rows: Indices, entries: Indices, epoch: int) -> None:
        batch = work.batch
        for row, entry in zip(rows.tolist(), entries.tolist(), strict=True):

            def show(index: int, member: int, generator: np.random.Generator, row: int = row) -> None:
                picture = self.source.open(member)
                if isinstance(batch, ViewBatch):
                    batch.images[row] += self.views(picture.pixels())  # type: ignore[misc]
                    return
                self.augmentation.show(picture, generator, batch.images[row])
                if batch.draws is not None:
                    self.augmentation.draw(generator, batch.images.shape[-1], batch.draws[row])

            shown = self.read(entry, epoch, show)
            if shown is None:
                work.dropped.append(row)
            elif shown[0] != entry % len(self.members):
                index = shown[0]
                batch.labels[row], batch.indices[row] = int(self.source.labels[self.members[index]]), index


class BatchMemory:
    """Memory for batches, used again as soon as nothing refers to a batch: fresh memory is a page fault every 4 KiB.

    PyTorch's allocator of pinned memory does so by itself.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def batch(self, count: int, channels: int, size: int) -> Tensor:
        """An uninitialised batch (N, C, H, W) uint8, channels last in memory."""
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


class _Work:
    """A batch that threads are filling."""

    def __init__(self, batch: Batch | ViewBatch) -> None:
        self.batch = batch
        self.parts: list[Future[None]] = []
        self.dropped: list[int] = []

    def result(self) -> Batch | ViewBatch:
        """Wait for the batch; the first error of a thread is raised here."""
        for part in self.parts:
            part.result()
        if not self.dropped:
            return self.batch
        kept = [row for row in range(len(self.batch.labels)) if row not in set(self.dropped)]
        if isinstance(self.batch, ViewBatch):
            images = [self.batch.images[row] for row in kept]
            return ViewBatch(images, self.batch.labels[kept], self.batch.indices[kept])
        return Batch(self.batch.images[kept], self.batch.labels[kept], self.batch.indices[kept])
