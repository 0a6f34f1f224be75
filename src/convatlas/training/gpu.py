"""The use of a GPU: TF32, the settings that affect speed, and the memory of a training step."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor


def set_tf32(tf32: bool | None) -> None:
    """Choose whether float32 convolutions and matrix products of this process run in TF32 on a GPU.

    TF32 keeps the range of float32 with 10 bits of the mantissa. CPUs and older GPUs do not have it.

    Args:
        tf32: In both, or in neither; None is PyTorch's default, in convolutions only.
    """
    torch.backends.cudnn.allow_tf32 = tf32 is not False
    torch.backends.cuda.matmul.allow_tf32 = bool(tf32)


def gpu_settings(settings: Mapping[str, Any], device: torch.device) -> str:
    """Name the GPU and the settings that affect its speed, each with its key.

    Args:
        settings: The expanded configuration of a training.
        device: A CUDA device.
    """
    keys = {
        "trainer.precision": settings["trainer"]["precision"],
        "tf32": settings["tf32"],
        "model.channels_last": settings["model"]["channels_last"],
        "model.compile": settings["model"]["compile"],
        "trainer.deterministic": settings["trainer"]["deterministic"],
        "trainer.benchmark": settings["trainer"]["benchmark"],
        "optimizer.algorithm.fused": settings["optimizer"]["algorithm"].get("fused"),
    }
    shown = " ".join(f"{key}={'null' if value is None else str(value).lower()}" for key, value in keys.items())
    return f"{torch.cuda.get_device_name(device)}, {shown}"


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Largest number of bytes of GPU memory that PyTorch's tensors occupy while a function runs."""
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def largest_power_of_two(fits: Callable[[int], bool], limit: int) -> int:
    """Find the largest power of two, up to a limit, for which a function is true; 0 if it is false for 1.

    The function is called with 1, 2, 4 … until it is false.
    """
    size = 1
    while size <= limit and fits(size):
        size *= 2
    return size // 2


def fits(work: Callable[[], object]) -> bool:
    """Whether a function runs within the memory of the GPU."""
    try:
        work()
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def resized(batch: Any, size: int) -> Any:
    """Make a batch of another size from the first samples of a batch, repeated if there are too few.

    Args:
        batch: One of the named tuples of ``convatlas.data.batch``.
        size: Number of samples.
    """
    count = len(batch.indices)
    if size == count:
        return batch
    rows = [row % count for row in range(size)]

    def taken(field: Any) -> Any:
        if field is None:
            return None
        return field[torch.tensor(rows, device=field.device)] if isinstance(field, Tensor) else [field[i] for i in rows]

    return type(batch)(*map(taken, cast(tuple[Any, ...], batch)))
