from pathlib import Path

import pytest
import safetensors.torch
import torch

from convatlas.errors import UserError
from convatlas.models.resnet import CifarResNet
from convatlas.models.weights import load_weights


def net(depth: int = 8, num_classes: int = 10) -> CifarResNet:
    return CifarResNet(depth=depth, num_classes=num_classes, in_channels=1)


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "module", "lightning", "safetensors"])
def test_every_wrapping_loads(form: str, tmp_path: Path) -> None:
    source, target = net(), net()
    state = source.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        prefix = {"module": "module.", "lightning": "net."}.get(form, "")
        content = {prefix + name: value for name, value in state.items()}
        torch.save({form: content} if form in ("state_dict", "model") else content, path)
    load_weights(target, str(path))
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in state.items())


def test_a_mismatch_lists_what_is_wrong_ten_names_at_most(tmp_path: Path) -> None:
    torch.save(net(depth=14, num_classes=3).state_dict(), tmp_path / "w.pth")
    target = net()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(target, str(tmp_path / "w.pth"))
    message = str(caught.value)
    assert "unexpected: layer1.1.conv1.weight" in message
    assert "misshapen: fc.weight (3, 64) for (10, 64), fc.bias (3,) for (10,)" in message
    assert message.count("layer") == 10
    assert "and 26 more" in message
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_no_file_of_weights_is_named(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"model\.weights=.*: truncated or not a file of tensors"):
        load_weights(net(), str(tmp_path / name))


def test_something_else_in_the_file_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(UserError, match="expected a state dict"):
        load_weights(net(), str(tmp_path / "w.pth"))
