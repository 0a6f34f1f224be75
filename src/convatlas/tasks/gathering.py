"""Gather the predictions of all ranks."""

from typing import TypeVar, cast

import torch.distributed as dist

T = TypeVar("T")


def gather_ranks(value: T) -> list[T]:
    """Return the values of all ranks, in the order of the ranks.

    Args:
        value: The value of this rank, which can be pickled.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[T], values)
