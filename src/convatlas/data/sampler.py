"""Which samples make up each batch: a function of the seed, the epoch and the rank, and of nothing else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def train_batches(
    num_samples: int,
    global_batch_size: int,
    parts: int,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
    repeats: int = 1,
    group: int = 1,
    kinds: NDArray[np.integer[Any]] | None = None,
) -> list[Indices]:
    """The batches of one rank in one epoch; samples that do not fill a global batch are left out.

    The global batches are cut from one permutation first. Each is then dealt to the ranks and their accumulation
    parts, so that together they are the same batch for any number of them.

    With repeated augmentation (Hoffer et al. 2020; Berman et al. 2019) a global batch holds several copies
    of each of its samples, and an epoch as many images as without, so that it visits fewer samples. The copies of a
    sample are dealt one after the other, to different ranks where there are several.

    Args:
        num_samples: Size of the split.
        global_batch_size: Samples in one optimizer step over all ranks.
        parts: Accumulation parts of a rank's share.
        seed: The run's seed.
        epoch: Counted from zero.
        rank: This rank.
        world_size: Number of ranks.
        repeats: Copies of a sample in a global batch; where they do not divide it, its last group has fewer.
        group: Samples that are dealt together and stay neighbours: 2 where neighbours are mixed. It must divide a
            rank's accumulation part.
        kinds: A number for each sample, (num_samples,): global batches are of one kind, but for the last of an epoch,
            which take what is left of each. Images of one orientation need less padding.

    Returns:
        Entries, one array a batch: copy c of the sample at position i of the split is ``i + c * num_samples``, so that
        ``entry % num_samples`` is the position and each copy can have its own augmentation.
    """
    groups = global_batch_size // group
    distinct = -(-groups // repeats) * group
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    if kinds is not None:
        order = _by_kind(order, kinds, distinct)
    copies = num_samples * np.arange(repeats)[:, None]
    batches = []
    for batch in range(num_samples // global_batch_size):
        samples = order[batch * distinct : (batch + 1) * distinct].reshape(-1, 1, group)
        dealt = (samples + copies).reshape(-1, group)[:groups]
        batches += np.split(dealt[rank::world_size].ravel(), parts)
    return batches


def _by_kind(order: Indices, kinds: NDArray[np.integer[Any]], size: int) -> Indices:
    """Put samples of one kind together, ``size`` at a time, as soon as there are so many of it."""
    waiting: dict[int, list[int]] = {}
    sorted_order: list[int] = []
    for sample, kind in zip(order.tolist(), kinds[order].tolist(), strict=True):
        group = waiting.setdefault(kind, [])
        group.append(sample)
        if len(group) == size:
            sorted_order += group
            group.clear()
    for group in waiting.values():
        sorted_order += group
    return np.array(sorted_order, dtype=np.int64)


def evaluation_batches(num_samples: int, batch_size: int, rank: int, world_size: int) -> list[Indices]:
    """The batches of one rank in an evaluation: a stride without padding, so that each sample counts once."""
    share = np.arange(rank, num_samples, world_size)
    return [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
