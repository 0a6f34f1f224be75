"""Repeated augmentation, and groups that stay together: the same global batch for any number of ranks."""

import numpy as np
import pytest

from convatlas.data.sampler import Indices, train_batches


def plain_batches(
    num_samples: int, global_batch_size: int, parts: int, seed: int, epoch: int, rank: int, world_size: int
) -> list[Indices]:
    """Every sample once, dealt one by one: what runs were trained with before there were repeats and groups."""
    order = np.random.default_rng([seed, epoch]).permutation(num_samples)
    batches = []
    for start in range(0, num_samples - global_batch_size + 1, global_batch_size):
        batches += np.split(order[start : start + global_batch_size][rank::world_size], parts)
    return batches


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_without_repeats_and_groups_the_order_is_as_it_was(world_size: int, parts: int) -> None:
    for epoch in range(3):
        for rank in range(world_size):
            ours = train_batches(100, 12, parts, 7, epoch, rank, world_size)
            expected = plain_batches(100, 12, parts, 7, epoch, rank, world_size)
            assert len(ours) == len(expected) == 8 * parts
            assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_global_batch_and_its_groups_do_not_depend_on_ranks_and_parts(
    world_size: int, parts: int, repeats: int, group: int
) -> None:
    def groups(batches: list[Indices]) -> list[tuple[int, ...]]:
        return [tuple(row) for batch in batches for row in batch.reshape(-1, group).tolist()]

    whole = train_batches(100, 24, 1, 0, 5, 0, 1, repeats, group)
    shares = [train_batches(100, 24, parts, 0, 5, rank, world_size, repeats, group) for rank in range(world_size)]
    assert len(whole) == 4
    assert {len(batch) for share in shares for batch in share} == {24 // world_size // parts}
    for step, batch in enumerate(whole):
        dealt = [share[step * parts : (step + 1) * parts] for share in shares]
        assert sorted(groups([batch])) == sorted(group for batches in dealt for group in groups(batches))


@pytest.mark.parametrize("group", [1, 2])
def test_a_global_batch_holds_each_of_its_samples_so_many_times_as_distinct_copies(group: int) -> None:
    batches = train_batches(100, 24, 1, 0, 0, 0, 1, repeats=3, group=group)
    seen: set[int] = set()
    for batch in batches:
        samples, counts = np.unique(batch % 100, return_counts=True)
        assert counts.tolist() == [3] * 8
        assert len(set(batch.tolist())) == 24
        assert sorted(set((batch // 100).tolist())) == [0, 1, 2]
        assert not seen & set(samples.tolist())
        seen |= set(samples.tolist())


def test_copies_meet_the_same_neighbour_and_never_each_other() -> None:
    for batch in train_batches(100, 24, 1, 0, 0, 0, 1, repeats=3, group=2):
        samples, copies = (batch % 100).reshape(-1, 2), (batch // 100).reshape(-1, 2)
        assert (samples[:, 0] != samples[:, 1]).all()
        assert (copies[:, 0] == copies[:, 1]).all()


def test_copies_of_a_sample_go_to_different_ranks() -> None:
    for rank in range(3):
        for batch in train_batches(100, 24, 1, 0, 0, rank, 3, repeats=3):
            assert len(set((batch % 100).tolist())) == 8


def test_a_batch_that_repeats_do_not_divide_has_fewer_copies_of_its_last_samples() -> None:
    for batch in train_batches(100, 16, 1, 0, 0, 0, 1, repeats=3, group=2):
        _, counts = np.unique(batch % 100, return_counts=True)
        assert sorted(counts.tolist()) == [2, 2, 3, 3, 3, 3]


def test_each_epoch_visits_other_samples() -> None:
    def samples(epoch: int) -> set[int]:
        return set((np.concatenate(train_batches(120, 24, 1, 0, epoch, 0, 1, repeats=4)) % 120).tolist())

    assert len(samples(0)) == 30
    assert len(set.union(*(samples(epoch) for epoch in range(30)))) == 120
