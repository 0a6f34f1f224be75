"""Start a network from a file of weights, or from torchvision's."""

from pathlib import Path

import torch
import torchvision
from torch import Tensor

from convatlas.errors import UserError
from convatlas.models.classifier import Classifier
from convatlas.torchfile import read_torch_file

TORCHVISION = "torchvision"
"""Instead of a file: torchvision's best weights, or with ``:NAME`` the ones of that name."""
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


def torchvision_state_dict(net: Classifier, source: str) -> dict[str, Tensor]:
    """Fetch torchvision's weights of a network, or read them where an earlier fetch has put them.

    Args:
        net: The network that they are for.
        source: ``torchvision`` or ``torchvision:IMAGENET1K_V1``.

    Raises:
        UserError: torchvision does not have this network or weights of that name; they cannot be fetched.
    """
    key, name = f"model.weights={source}", net.torchvision_name
    if name is None:
        raise UserError(
            f"{key}: torchvision has no {type(net).__name__} with these settings; expected a file, or a model of the "
            "table in docs/architectures.md that torchvision has"
        )
    choices = torchvision.models.get_model_weights(name)
    wanted = source.partition(":")[2] or "DEFAULT"
    if wanted not in choices.__members__:
        raise UserError(f"{key}: torchvision's {name} has {', '.join(choice.name for choice in choices)}")
    url = choices[wanted].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:  # the name ends in the first digits of the content's SHA-256
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2])
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{key}: cannot be fetched ({error}); expected internet, or a copy of {url} at {file}"
            ) from error
    return read_state_dict(file)


def load_weights(net: Classifier, source: str, *, reset_classifier: bool = False) -> None:
    """Load weights into a network, strictly.

    Args:
        net: The network.
        source: A file, or what ``torchvision_state_dict`` takes.
        reset_classifier: Load at the weights' own number of classes, then give the network a new classifier with
            the number it had.

    Raises:
        UserError: Listing the missing, unexpected and misshapen names, at most ten each.
    """
    if source.partition(":")[0] == TORCHVISION:
        found = torchvision_state_dict(net, source)
    else:
        found = read_state_dict(Path(source))
    num_classes = net.num_classes
    classifier = found.get(f"{net.classifier_name}.bias")
    if reset_classifier and classifier is not None:
        net.reset_classifier(len(classifier))
    expected = net.state_dict()
    problems = {
        # Files from before torch 0.4.1 lack the count of batches that BatchNorm has seen; torch takes them too.
        "missing": [name for name in expected if name not in found and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in found if name not in expected],
        "misshapen": [
            f"{name} {tuple(found[name].shape)} for {tuple(expected[name].shape)}"
            for name in expected
            if name in found and found[name].shape != expected[name].shape
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        if f"{net.classifier_name}.bias" in listed:
            listed += "; model.reset_classifier=true takes weights of another number of classes"
        raise UserError(f"model.weights={source} does not fit {type(net).__name__}: {listed}")
    net.load_state_dict(found)
    if reset_classifier:
        net.reset_classifier(num_classes)


def _listed(names: list[str]) -> str:
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest
