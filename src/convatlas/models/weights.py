"""Start a network from a file of weights."""

from pathlib import Path

from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.torchfile import read_torch_file

LISTED = 10


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict; code in the file is never executed.

    Takes ``.safetensors`` and torch files; finds the tensors of a network inside ``state_dict`` and ``model`` wrappers
    and our own checkpoints, and strips the ``module.`` and ``net.`` prefixes.

    Raises:
        UserError: No such file, or not a file of weights.
    """
    content = read_torch_file(path, "model.weights")
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"model.weights={path}: expected a state dict, names to tensors")
    for prefix in ("module.", "net."):
        if content and any(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
    return dict(content)


def load_weights(net: nn.Module, path: str) -> None:
    """Load a file of weights into a network, strictly.

    Raises:
        UserError: Listing the missing, unexpected and misshapen names, at most ten each.
    """
    found = read_state_dict(Path(path))
    expected = net.state_dict()
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise UserError(f"model.weights={path} does not fit {type(net).__name__}: {listed}")
    net.load_state_dict(found)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest
