"""Which samples make up each batch: a function of the seed, the epoch and the rank, and of nothing else."""

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def train_batches(
    num_samples: int, global_batch_size: int, parts: int, seed: int, epoch: int, rank: int, world_size: int
) -> list[Indices]:
    """The batches of one rank in one epoch; samples that do not fill a global batch are left out.

    The global batches are cut from one permutation first. Each is then dealt to the ranks and their accumulation
    parts, so that together they are the same batch for any number of them.

    Args:
        num_samples: Size of the split.
        global_batch_size: Samples in one optimizer step over all ranks.
        parts: Accumulation parts of a rank's share.
        seed: The run's seed.
        epoch: Counted from zero.
        rank: This rank.
        world_size: Number of ranks.

    Returns:
        Positions in the split, one array a batch.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    batches = []
    for start in range(0, num_samples - global_batch_size + 1, global_batch_size):
        share = order[start : start + global_batch_size][rank::world_size]
        batches += np.split(share, parts)
    return batches


def evaluation_batches(num_samples: int, batch_size: int, rank: int, world_size: int) -> list[Indices]:
    """The batches of one rank in an evaluation: a stride without padding, so that each sample counts once."""
    share = np.arange(rank, num_samples, world_size)
    return [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
