from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from convatlas.errors import UserError
from convatlas.models.classification.googlenet import GoogLeNetTorchvision
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.weights import load_weights


def net(depth: int = 8, num_classes: int = 10) -> CifarResNet:
    return CifarResNet(depth=depth, num_classes=num_classes, in_channels=1)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "net.", "module.net."])
@pytest.mark.parametrize("suffix", ["pth", "th", "safetensors"])
def test_every_wrapping_loads(suffix: str, prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    source, target = net(), net()
    state = source.state_dict()
    path = tmp_path / f"w.{suffix}"
    content = {prefix + name: value for name, value in state.items()}
    if suffix == "safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content if wrapper is None else {wrapper: content, "epoch": 3}, path)
    load_weights(target, str(path))
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in state.items())


class Code:
    """What a pickle makes of this is whatever ``call`` does."""

    def __init__(self, call: Callable[..., object], *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_executed(legacy: bool, tmp_path: Path) -> None:
    content = {**net().state_dict(), "fc.bias": Code(Path.touch, tmp_path / "executed")}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"model\.weights=.*w\.pth: truncated or not a file of tensors"):
        load_weights(net(), str(tmp_path / "w.pth"))
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # which would have
    assert (tmp_path / "executed").exists()


def test_a_mismatch_lists_what_is_wrong_ten_names_at_most(tmp_path: Path) -> None:
    torch.save(net(depth=14, num_classes=3).state_dict(), tmp_path / "w.pth")
    target = net()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(target, str(tmp_path / "w.pth"))
    message = str(caught.value)
    assert "unexpected: layer1.1.conv1.weight" in message
    assert "misshapen: fc.weight (3, 64) for (10, 64), fc.bias (3,) for (10,)" in message
    assert message.endswith("model.reset_classifier=true takes weights of another number of classes")
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


def test_another_number_of_classes_with_a_new_classifier(tmp_path: Path) -> None:
    source, target = net(num_classes=3), net(num_classes=10)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    load_weights(target, str(tmp_path / "w.pth"), reset_classifier=True)
    assert (target.num_classes, target.fc.weight.shape) == (10, (10, 64))
    assert torch.equal(target.layer1[0].conv1.weight, source.layer1[0].conv1.weight)  # type: ignore[arg-type, union-attr]


def test_files_that_do_not_count_batches_load(tmp_path: Path) -> None:
    state = {name: value for name, value in net().state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pth")
    load_weights(net(), str(tmp_path / "w.pth"))


def put(weights: torchvision.models.Weights, folder: Path) -> dict[str, torch.Tensor]:
    """Where torchvision keeps what it has fetched, put the weights of a new network."""
    name = type(weights).__name__.removesuffix("_Weights").lower()
    arguments = {"init_weights": True} if name == "googlenet" else {}
    state: dict[str, torch.Tensor] = torchvision.models.get_model(name, **arguments).state_dict()
    folder.joinpath("hub", "checkpoints").mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "hub" / "checkpoints" / Path(weights.url).name)
    return state


def test_torchvisions_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    first = put(torchvision.models.ResNet50_Weights.IMAGENET1K_V1, tmp_path)
    best = put(torchvision.models.ResNet50_Weights.IMAGENET1K_V2, tmp_path)
    target = ResNet(depth=50, stride_in="3x3")
    for source, state in (("torchvision", best), ("torchvision:IMAGENET1K_V1", first)):
        load_weights(target, source)
        assert all(torch.equal(value, state[name]) for name, value in target.state_dict().items())
    state = put(torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1, tmp_path)
    fine_tuned = GoogLeNetTorchvision(num_classes=7)
    load_weights(fine_tuned, "torchvision", reset_classifier=True)
    assert torch.equal(fine_tuned.inception3a.branch1.conv.weight, state["inception3a.branch1.conv.weight"])
    assert fine_tuned.aux1.fc2.out_features == fine_tuned.fc.out_features == 7


def test_torchvisions_weights_that_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        UserError, match=r"model\.weights=torchvision: torchvision has no CifarResNet with these settings"
    ):
        load_weights(net(), "torchvision")
    with torch.device("meta"):
        target = ResNet(depth=18)
    with pytest.raises(UserError, match="torchvision's resnet18 has IMAGENET1K_V1"):
        load_weights(target, "torchvision:V9")


@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_broken_copy_of_torchvisions_weights_is_named(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    put(torchvision.models.ResNet18_Weights.IMAGENET1K_V1, tmp_path)
    file = next((tmp_path / "hub" / "checkpoints").iterdir())
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"model.weights={file}: truncated or not a file of tensors"):
        load_weights(ResNet(depth=18), "torchvision")


def test_torchvisions_weights_without_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing answers there
    monkeypatch.setattr("urllib.request._opener", None)  # which keeps the proxies of its first use
    with pytest.raises(UserError, match=r"model\.weights=torchvision: cannot be fetched \(.*refused"):
        load_weights(ResNet(depth=18), "torchvision")
