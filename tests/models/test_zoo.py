"""Every configuration of ``conf/model`` that classifies, as it is built for 32-pixel images unless a test says so."""

from pathlib import Path
from typing import cast

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from convatlas.config.composition import compose, plain
from convatlas.models.classification.classifier import Classifier
from convatlas.models.classification.resnet import CifarResNet
from convatlas.models.outputs import ClassifierOutput
from convatlas.training.checkpoint_io import KEY, AtomicCheckpointIO
from convatlas.training.restore import load_net, open_checkpoint
from tests.compiler import needs_compiler
from tests.models.zoo import FILES, LARGEST, NAMES, SMALLER, build, heads, load, loss, net_config, slow_except

SIDE = 32
TRACED = ["alexnet", "googlenet", "resnet18"]
"""By default; the others take the compilers minutes."""
KINDS = [
    *["alexnet", "alexnet_torchvision", "cuda_convnet_cifar", "googlenet", "googlenet_bn", "googlenet_torchvision"],
    *["plain18", "plain20_cifar", "resnet18", "resnet20_cifar", "resnet50", "resnet50_v15"],
    *["vgg11_bn", "vgg11_lrn", "vgg16", "vgg16_c"],
]
"""One network of each kind: the deeper ones repeat its blocks, which a compiler sees no more in than in a few."""
MAPS_AT_224 = {
    "alexnet": "conv1 96 55, pool1 96 27, conv2 256 27, pool2 256 13, conv3 384 13, conv4 384 13, conv5 256 13, "
    "pool5 256 6",
    "alexnet_torchvision": "conv1 64 55, pool1 64 27, conv2 192 27, pool2 192 13, conv3 384 13, conv4 256 13, "
    "conv5 256 13, pool5 256 6",
    "vgg": "conv1 64 224, pool1 64 112, conv2 128 112, pool2 128 56, conv3 256 56, pool3 256 28, conv4 512 28, "
    "pool4 512 14, conv5 512 14, pool5 512 7",
    "googlenet": "conv1 64 112, conv3 192 56, inception3a 256 28, inception3b 480 28, inception4a 512 14, "
    "inception4b 512 14, inception4c 512 14, inception4d 528 14, inception4e 832 14, inception5a 832 7, "
    "inception5b 1024 7",
    "basic": "conv1 64 112, layer1 64 56, layer2 128 28, layer3 256 14, layer4 512 7",
    "bottleneck": "conv1 64 112, layer1 256 56, layer2 512 28, layer3 1024 14, layer4 2048 7",
    "cuda_convnet_cifar": "conv1 32 224, pool1 32 112, conv2 32 112, pool2 32 56, conv3 64 56, pool3 64 28",
    "cifar": "conv1 16 224, layer1 16 224, layer2 32 112, layer3 64 56",
}
"""Name, channels and side of each feature map at 224 pixels, from the papers' tables."""


def family(name: str) -> str | None:
    """The key of ``MAPS_AT_224`` that describes a configuration; None for a network that no table describes."""
    if name in MAPS_AT_224:
        return name
    if name.startswith(("resnet", "plain")):
        return "cifar" if name.endswith("_cifar") else "basic" if name.endswith(("18", "34")) else "bottleneck"
    return next((prefix for prefix in ("vgg", "googlenet") if name.startswith(prefix)), None)


DESCRIBED = [name for name in NAMES if family(name)]


def images(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side)


@pytest.fixture(scope="module", params=SMALLER)
def name(request: pytest.FixtureRequest) -> str:
    return cast(str, request.param)


@pytest.fixture(scope="module")
def model(name: str) -> Classifier:
    """One network for several tests: each sets the mode that it needs."""
    torch.manual_seed(0)
    return build(name)


def test_there_are_configurations() -> None:
    assert len(NAMES) >= 36


@pytest.mark.parametrize("config", NAMES)
def test_configuration_form(config: str) -> None:
    lines = FILES[config].read_text(encoding="utf-8").splitlines()
    assert load(config).name == config
    assert len(lines) <= 14
    assert lines[0].startswith("# ")
    assert "M parameters" in lines[0]


def test_learns_from_small_images(model: Classifier) -> None:
    """Finite logits at two sizes, and a gradient for every parameter, those of auxiliary heads included."""
    output = model.train()(images())
    loss(output).backward()  # type: ignore[no-untyped-call]
    assert all(logits.shape == (2, 10) and logits.isfinite().all() for logits in heads(output))
    without = [k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    model.zero_grad()
    for side in (SIDE, 48):
        with torch.inference_mode():
            logits = model.eval()(images(1, side))
        assert logits.shape == (1, 10)
        assert logits.isfinite().all()


def test_last_feature_map_is_forward_features(model: Classifier) -> None:
    batch = images()
    with torch.inference_mode():
        maps = model.eval().feature_maps(batch)
        features = model.forward_features(batch)
    assert features.dim() == 4
    assert features.std() > 0
    assert torch.equal(list(maps.values())[-1], features)


def test_checkpoints_bring_the_network_back(name: str, model: Classifier, tmp_path: Path) -> None:
    """Built from the configuration that the checkpoint holds, and filled with its tensors, strictly."""
    state = model.state_dict()
    config = plain(compose("train", [f"model={name}", "data.num_classes=10"]))
    config["model"]["net"] = OmegaConf.to_container(net_config(name))
    path = tmp_path / "best.ckpt"
    checkpoint = {
        "state_dict": {f"net.{key}": value for key, value in state.items()},
        "global_step": 0,
        KEY: {"config": config, "class_list": [str(number) for number in range(10)]},
    }
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    restored = load_net(open_checkpoint(path))
    path.unlink()  # 140 MB for each VGG
    assert type(restored) is type(model)
    assert list(restored.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in restored.state_dict().items())


@pytest.mark.slow
def test_the_largest_network(tmp_path: Path) -> None:
    """As the others; with a batch's statistics, without which 600 blocks leave the range of float32 in evaluation."""
    torch.manual_seed(0)
    net = build(LARGEST).train()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    for side in (48, SIDE):
        batch = images(side=side)
        net.train().zero_grad()
        loss(net(batch)).backward()  # type: ignore[no-untyped-call]
        assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        with torch.inference_mode():
            logits = net.eval()(batch)
        assert logits.shape == (2, 10)
        assert logits.isfinite().all()
    test_checkpoints_bring_the_network_back(LARGEST, net, tmp_path)


@pytest.mark.parametrize("config", slow_except(SMALLER, NAMES))
def test_surface(config: str) -> None:
    """Shapes only, so nothing is computed."""
    net = build(config, device="meta", in_channels=1).eval()
    assert isinstance(net, Classifier)
    batch = torch.empty(3, 1, SIDE, SIDE, device="meta")
    assert net.forward_features(batch).shape[:2] == (3, list(net.feature_maps(batch).values())[-1].shape[1])
    assert (net.num_classes, net.in_channels, net.dilation) == (10, 1, 1)
    assert net.image_size == (32 if config.endswith("_cifar") else 224)
    with torch.device("meta"):
        net.reset_classifier(7)
    assert net.num_classes == 7
    assert net(batch).shape == (3, 7)
    output = net.train()(batch)
    assert isinstance(output, ClassifierOutput) == config.startswith("googlenet")
    assert all(logits.shape == (3, 7) for logits in heads(output))
    last = net.get_submodule(net.classifier_name)
    assert isinstance(last, nn.Linear)
    assert last.weight.shape == (7, net.num_features)


@pytest.mark.parametrize("config", slow_except(SMALLER, DESCRIBED))
def test_feature_maps_at_the_paper_s_size(config: str) -> None:
    net = build(config, device="meta", stem="imagenet").eval()
    maps = net.feature_maps(torch.empty(1, 3, 224, 224, device="meta"))
    found = ", ".join(f"{key} {value.shape[1]} {value.shape[2]}" for key, value in maps.items())
    assert found == MAPS_AT_224[str(family(config))]
    assert all(value.shape[2] == value.shape[3] for value in maps.values())


@pytest.mark.parametrize("config", ["alexnet", "googlenet", "resnet18"])
def test_paper_s_stem_takes_more_than_one_size(config: str) -> None:
    torch.manual_seed(0)
    net = build(config, stem="imagenet")
    for side in (64, 97):
        output = net.train()(images(side=side))
        assert all(logits.shape == (2, 10) and logits.isfinite().all() for logits in heads(output))
        with torch.inference_mode():
            assert net.eval()(images(side=side)).std() > 0


@pytest.mark.parametrize("config", slow_except(TRACED, KINDS))
def test_compiles_as_one_graph(config: str) -> None:
    """Both modes are traced without a break; what a backend makes of the graph is torch's affair."""
    torch.manual_seed(0)
    net = build(config)
    batch = images()
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for training in (False, True):
        net.train(training)
        outputs = []
        for function in (net, compiled):
            torch.manual_seed(1)  # the same dropout
            with torch.no_grad():
                outputs.append(heads(function(batch)))
        torch.testing.assert_close(outputs[1], outputs[0])
    torch.compiler.reset()


@pytest.mark.parametrize("config", slow_except(TRACED, KINDS))
def test_exports(config: str) -> None:
    torch.manual_seed(0)
    net = build(config).eval()
    batch = images()
    with torch.no_grad():
        exported = torch.export.export(net, (batch,)).module()
        assert torch.equal(exported(batch), net(batch))


@pytest.mark.slow
@needs_compiler
def test_inductor_trains_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    net = CifarResNet(depth=8)
    batch = images(4)
    torch.compiler.reset()
    gradients = []
    for function in (net, torch.compile(net, fullgraph=True)):
        net.zero_grad()
        loss(function(batch)).backward()  # type: ignore[no-untyped-call]
        gradients.append({key: parameter.grad for key, parameter in net.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-5)
    torch.compiler.reset()
