"""A network compiled for training steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from convatlas.errors import UserError


def compiled(net: nn.Module) -> Callable[..., Any]:
    """Return the network's forward function, compiled at its first call (Ansel et al. 2024).

    Raises:
        UserError: This machine cannot compile; found out with a function of one operation.
    """
    try:
        negative = torch.compile(torch.neg, options={"force_disable_caches": True})  # what a cache has proves nothing
        negative(torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise UserError(
            f"model.compile=true: torch.compile does not work here ({reason}); expected a C++ compiler, and Triton for "
            "a GPU"
        ) from error
    function: Callable[..., Any] = torch.compile(net.forward)
    return function
