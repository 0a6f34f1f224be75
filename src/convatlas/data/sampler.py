"""Choose the samples of each batch as a function of seed, epoch and rank only."""

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
    """Return the batches of one rank in one epoch. The last samples, which do not fill a global batch, are left out.

    A permutation of all samples is cut into global batches. Each global batch is then divided between the ranks and
    their accumulation parts. Therefore the global batch does not depend on the number of ranks and parts.

    With repeated augmentation (Hoffer et al. 2020; Berman et al. 2019), a global batch contains several copies of each
    of its samples. The number of images in an epoch does not change, so that an epoch visits fewer samples. The copies
    of a sample are assigned to successive ranks.

    Args:
        num_samples: Size of the split.
        global_batch_size: Number of samples in one optimizer step over all ranks.
        parts: Number of accumulation parts of a rank.
        seed: The run's seed.
        epoch: The epoch, counted from zero.
        rank: This rank.
        world_size: Number of ranks.
        repeats: Number of copies of a sample in a global batch. If it does not divide the batch, the last group of
            samples has fewer copies.
        group: Number of samples that stay neighbours on the same rank: 2 if neighbours are mixed. It must divide the
            accumulation part of a rank.
        kinds: The kind of each sample, (num_samples,). Each global batch has samples of one kind, except for the last
            batches of an epoch, which contain the remaining samples of all kinds. For example, batches of images with
            the same orientation need less padding.

    Returns:
        One array of entries for each batch. The entry of copy c of the sample at position i of the split is
        ``i + c * num_samples``. Therefore ``entry % num_samples`` is the position, and each copy can have its own
        augmentation.
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
    """Reorder samples into groups of ``size`` samples of one kind, in the order in which the groups become complete."""
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
    """Return the batches of one rank in an evaluation. The samples are strided without padding: each counts once."""
    share = np.arange(rank, num_samples, world_size)
    return [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
