"""A trained classifier becomes a backbone, and one stage of a staged training starts the next."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.classification.vgg import VGG
from convatlas.models.segmentation.deeplab import DeepLabVGG
from convatlas.models.segmentation.fcn import FCN, FCNVGG
from convatlas.models.segmentation.segmenter import linear_as_convolution
from convatlas.models.segmentation.unet import UNet
from convatlas.models.weights import load_backbone, load_weights


def saved(net: nn.Module, path: Path) -> str:
    """As a checkpoint of ours holds it; a network without memory is one of zeros."""
    state = {
        f"net.{name}": torch.zeros(()).expand(value.shape) if value.is_meta else value
        for name, value in net.state_dict().items()
    }
    torch.save({"state_dict": state}, path)
    return str(path)


def test_a_trained_resnet_becomes_the_backbone(tmp_path: Path) -> None:
    classifier = CifarResNet(depth=8, num_classes=7)
    net = FCN(backbone=CifarResNet(depth=8), num_classes=3)
    report = load_backbone(net, saved(classifier, tmp_path / "best.ckpt"))
    images = torch.randn(1, 3, 16, 16)
    assert torch.equal(net.eval().backbone.forward_features(images), classifier.eval().forward_features(images))
    assert report.unused == ("fc.weight", "fc.bias")
    assert {name.partition(".")[0] for name in report.new} == {"classifier", "aux_classifier"}
    assert len(report.loaded) == len(net.backbone.state_dict())
    assert str(report).endswith(
        "best.ckpt: 42 tensors loaded; new: aux_classifier, classifier; unused: fc; "
        "the file does not say, so as configured: shortcut_padding=end"
    )


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    net = FCN(backbone=CifarResNet(depth=8))
    with pytest.raises(
        UserError, match=r"model\.backbone\.weights=.*does not fit FCN: unexpected: backbone\.layer1\.1"
    ):
        load_backbone(net, saved(CifarResNet(depth=14), tmp_path / "deeper.ckpt"))
    with pytest.raises(UserError, match=r"missing: backbone\.conv1\.weight"):
        load_backbone(net, saved(nn.Linear(2, 2), tmp_path / "linear.ckpt"))
    with pytest.raises(UserError, match=r"model\.backbone\.weights=nowhere: no such file"):
        load_backbone(net, "nowhere")
    with pytest.raises(UserError, match="UNet has no backbone"):
        load_backbone(UNet(width=2), "best.ckpt")


def test_a_linear_layer_is_the_same_as_a_convolution() -> None:
    linear, conv = nn.Linear(4 * 49, 8), nn.Conv2d(4, 8, 7)
    conv.load_state_dict(linear_as_convolution(linear.weight.detach(), linear.bias.detach(), conv))
    x = torch.randn(2, 4, 7, 7)
    torch.testing.assert_close(conv(x).flatten(1), linear(x.flatten(1)))


@pytest.mark.parametrize(("kernel", "taps"), [(3, [0, 3, 6]), (4, [0, 2, 4, 6])])
def test_a_smaller_convolution_gets_every_nth_weight(kernel: int, taps: list[int]) -> None:
    linear, conv = nn.Linear(4 * 49, 8), nn.Conv2d(4, 2, kernel)
    thinned = linear_as_convolution(linear.weight, linear.bias, conv)
    whole = linear.weight.view(8, 4, 7, 7)
    assert torch.equal(thinned["weight"], whole[[0, 4]][:, :, taps][:, :, :, taps])
    assert torch.equal(thinned["bias"], linear.bias[[0, 4]])
    hidden, narrow = nn.Linear(8, 8), nn.Conv2d(2, 2, 1)
    thinned = linear_as_convolution(hidden.weight, hidden.bias, narrow)
    assert torch.equal(thinned["weight"][:, :, 0, 0], hidden.weight[::4, ::4])


def vgg_nets() -> dict[str, Any]:
    return {
        "fcn8s": lambda: FCNVGG(backbone=VGG(configuration="D"), stride=8),
        "largefov": lambda: DeepLabVGG(backbone=VGG(configuration="D", output_stride=8), rates=[12]),
        "aspp": lambda: DeepLabVGG(backbone=VGG(configuration="D", output_stride=8), rates=[6, 12, 18, 24]),
    }


@pytest.mark.parametrize("name", vgg_nets())
def test_all_that_a_vgg_brings_has_a_place(name: str) -> None:
    """Shapes only, so nothing is computed."""
    with torch.device("meta"):
        net = vgg_nets()[name]()
        carried = net.convert_backbone_state_dict(VGG(configuration="D").state_dict())
    expected = {key: value.shape for key, value in net.state_dict().items() if key.startswith(net.carried)}
    assert {key: value.shape for key, value in carried.items()} == expected
    new = {key.partition(".")[0] for key in net.state_dict() if key not in carried}
    assert all(key.startswith(("score_", "upscore", "fc8_")) for key in new)


@pytest.mark.slow
def test_a_trained_vgg_becomes_an_fcn(tmp_path: Path) -> None:
    """Where fc6 sees the whole 7 x 7 of an image of 224 pixels, fc7 says what the classifier's did."""
    torch.manual_seed(0)
    classifier = VGG(configuration="D", num_classes=10).eval()
    for layer in classifier.classifier:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.bias)
    net = FCNVGG(backbone=VGG(configuration="D"), stride=32, num_classes=3).eval()
    report = load_backbone(net, saved(classifier, tmp_path / "vgg16.ckpt"))
    assert report.unused == ("classifier.6.weight", "classifier.6.bias")
    with torch.inference_mode():
        features = net.backbone.forward_features(torch.randn(1, 3, 224, 224))
        ours = F.relu(net.fc7(F.relu(net.fc6(features)))).flatten(1)
        torch.testing.assert_close(ours, classifier.classifier[:5](features.flatten(1)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second", "new", "unused"),
    [
        (32, 16, {"upscore_pool4", "score_pool4", "upscore16"}, {"upscore32"}),
        (16, 8, {"upscore_pool3", "score_pool3", "upscore8"}, {"upscore16"}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # nothing is computed
def test_a_stage_starts_from_the_one_before(
    first: Any, second: Any, new: set[str], unused: set[str], tmp_path: Path
) -> None:
    with torch.device("meta"):
        nets = [FCNVGG(backbone=VGG(configuration="D"), stride=stride) for stride in (first, second)]
    report = load_weights(nets[1], saved(nets[0], tmp_path / "stage.ckpt"))
    assert {name.partition(".")[0] for name in report.new} == new
    assert {name.partition(".")[0] for name in report.unused} == unused
    assert set(report.loaded) == set(nets[0].state_dict()) & set(nets[1].state_dict())


def test_weights_of_a_segmentation_network_with_other_classes(tmp_path: Path) -> None:
    path = saved(FCN(backbone=CifarResNet(depth=8), num_classes=3), tmp_path / "w.ckpt")
    with pytest.raises(UserError, match=r"model\.reset_classifier=true takes weights of another number of classes"):
        load_weights(FCN(backbone=CifarResNet(depth=8), num_classes=5), path)
    net = FCN(backbone=CifarResNet(depth=8), num_classes=5)
    load_weights(net, path, reset_classifier=True)
    assert net(torch.randn(2, 3, 16, 16)).logits.shape == (2, 5, 16, 16)


def test_a_resnet_without_the_paper_s_names_is_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        net, classifier = FCN(backbone=ResNet(depth=18)), ResNet(depth=34)
    with pytest.raises(UserError, match=r"unexpected: backbone\.layer1\.2"):
        load_backbone(net, saved(classifier, tmp_path / "resnet34.ckpt"))
