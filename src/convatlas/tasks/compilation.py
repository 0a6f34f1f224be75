"""A network compiled for training steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from convatlas.errors import UserError


def compiled(net: nn.Module) -> Callable[..., Any]:
    """What maps a batch as the network does, compiled when it is first called (Ansel et al. 2024).

    Raises:
        UserError: This machine cannot compile; found out with a function of one operation.
    """
    try:
        torch.compile(torch.neg)(torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
        raise UserError(
            f"model.compile=true: torch.compile does not work here ({reason}); expected a C++ compiler, and Triton for "
            "a GPU"
        ) from error
    function: Callable[..., Any] = torch.compile(net.forward)
    return function
