"""A loader of threads: they decode straight into the batch, a bounded number of batches ahead.

Decoding, resizing and copying release the interpreter lock, so threads do what worker processes do, without their
start-up, copies and shared memory.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convatlas.data.augment import Step
from convatlas.data.batch import Batch, ViewBatch
from convatlas.data.order import Indices
from convatlas.data.sources import Source
from convatlas.data.views import Views
from convatlas.errors import UserError

Plan = Callable[[], tuple[int, Sequence[Indices]]]
"""Says, as an iteration starts, which epoch it is and which samples make up its batches."""


class ThreadedLoader:
    """Iterates over the batches of one split, each a ``Batch``, or a ``ViewBatch`` where there are ``views``.

    A sample's augmentation is drawn from a generator seeded with (seed, epoch, index): the batches do not depend on
    the number of threads. Lightning keeps ``state_dict()`` in its checkpoints, so that training goes on in mid-epoch.

    Args:
        source: The images.
        members: Positions in the source of the split's samples, (N,).
        plan: The epoch and its batches, asked at the start of each iteration.
        num_batches: How many there are.
        steps: What is done to an image; together they end at ``image_size``.
        views: A test protocol's views of an image in place of the steps.
        in_channels: Channels of a batch.
        image_size: Height and width of a batch in pixels.
        seed: The run's seed.
        threads: Number of threads.
        prefetch: Batches prepared ahead.

    Raises:
        UserError: An image cannot be decoded, or the steps do not end at ``image_size``; arrives at the batch.
    """

    def __init__(
        self,
        *,
        source: Source,
        members: NDArray[np.int64],
        plan: Plan,
        num_batches: int,
        steps: Mapping[str, Step],
        in_channels: int,
        image_size: int,
        seed: int,
        threads: int,
        prefetch: int,
        views: Views | None = None,
    ) -> None:
        self.source = source
        self.members = members
        self.plan = plan
        self.num_batches = num_batches
        self.steps = list(steps.values())
        self.shape = (in_channels, image_size, image_size)
        self.seed = seed
        self.threads = threads
        self.prefetch = prefetch
        self.views = views
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
        waiting: deque[tuple[Batch | ViewBatch, list[Future[None]]]] = deque()
        upcoming = iter(batches[start:])
        # Each thread computes alone: with a team of OpenMP threads behind each, they would crowd the cores. To ask
        # first settles the caller's own number, which would otherwise become 1 too.
        torch.get_num_threads()
        pool = ThreadPoolExecutor(
            self.threads, thread_name_prefix="loader", initializer=torch.set_num_threads, initargs=(1,)
        )
        try:
            while True:
                while len(waiting) < self.prefetch + 1 and (indices := next(upcoming, None)) is not None:
                    waiting.append(self._start(pool, indices, epoch))
                if not waiting:
                    return
                batch, parts = waiting.popleft()
                for part in parts:
                    part.result()
                self._position["batches"] += 1
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _start(
        self, pool: ThreadPoolExecutor, indices: Indices, epoch: int
    ) -> tuple[Batch | ViewBatch, list[Future[None]]]:
        labels = torch.from_numpy(self.source.labels[self.members[indices]])
        batch: Batch | ViewBatch
        if self.views is None:
            pinned = torch.cuda.is_available()
            with torch.inference_mode(False):  # an evaluation's tensors could not be written by other threads
                images = torch.empty((len(indices), *self.shape), dtype=torch.uint8, pin_memory=pinned)
            batch = Batch(images, labels, torch.from_numpy(indices))
        else:
            batch = ViewBatch([[] for _ in indices], labels, torch.from_numpy(indices))
        # A few samples a task: a task each costs more than decoding a small image.
        tasks = [part for part in np.array_split(np.arange(len(indices)), 2 * self.threads) if len(part)]
        return batch, [pool.submit(self._fill, batch, rows, indices[rows], epoch) for rows in tasks]

    def _fill(self, batch: Batch | ViewBatch, rows: Indices, indices: Indices, epoch: int) -> None:
        for row, index in zip(rows.tolist(), indices.tolist(), strict=True):
            member = int(self.members[index])
            image = self.source.load(member)
            if isinstance(batch, ViewBatch):
                batch.images[row] += self.views(image)  # type: ignore[misc]
            else:
                batch.images[row] = self._augmented(image, member, np.random.default_rng([self.seed, epoch, index]))

    def _augmented(self, image: Tensor, member: int, generator: np.random.Generator) -> Tensor:
        for step in self.steps:
            image = step(image, generator)
        if image.shape != self.shape:
            raise UserError(
                f"augment: {self.source.path(member)} ends as {tuple(image.shape)}, expected {self.shape}: "
                "data.image_size and data.in_channels say so"
            )
        return image
