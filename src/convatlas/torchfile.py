"""Read files of tensors without executing anything in them."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from convatlas.errors import UserError


def read_torch_file(path: Path, key: str) -> Any:
    """Read a ``.safetensors`` file, or one that ``torch.load(weights_only=True)`` accepts, onto the CPU.

    Args:
        path: The file.
        key: The configuration key that named it, for messages.

    Raises:
        UserError: No such file, truncated, or not a file of tensors.
    """
    if not path.is_file():
        raise UserError(f"{key}={path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes of a broken file lead the unpickler to
        raise UserError(f"{key}={path}: truncated or not a file of tensors ({type(error).__name__})") from error
