"""The networks of every pixel: shapes, where scores lie over the image, what training gets, torchvision's own."""

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.classification.vgg import VGG
from convatlas.models.outputs import ClassifierOutput
from convatlas.models.segmentation.deeplab import DeepLabV2, DeepLabV3, DeepLabV3Plus, DeepLabVGG
from convatlas.models.segmentation.fcn import FCN, FCNVGG, Upsampling
from convatlas.models.segmentation.segmenter import Segmenter
from convatlas.models.segmentation.unet import UNet
from tests.models.test_torchvision import Operations


def vgg(output_stride: Any = 32) -> VGG:
    return VGG(configuration="D", output_stride=output_stride)


def resnet(output_stride: Any = 8, depth: Any = 50) -> ResNet:
    return ResNet(depth=depth, stride_in="3x3", output_stride=output_stride)


def small_networks() -> dict[str, Segmenter]:
    """One of each kind that learns within a moment."""
    return {
        "fcn": FCN(backbone=CifarResNet(depth=8), num_classes=3),
        "deeplabv2": DeepLabV2(backbone=CifarResNet(depth=8), rates=[1, 2], num_classes=3),
        "deeplabv3": DeepLabV3(backbone=CifarResNet(depth=8), rates=[1, 2], num_classes=3, auxiliary=True),
        "deeplabv3plus": DeepLabV3Plus(backbone=CifarResNet(depth=8), rates=[1, 2], num_classes=3),
        "resnet18": DeepLabV3Plus(backbone=resnet(16, 18), rates=[1], multi_grid=[1, 2], num_classes=3),
        "unet": UNet(width=4, levels=3, num_classes=3, padding="same", batch_norm=True),
    }


@pytest.mark.parametrize("name", small_networks())
def test_every_pixel_gets_logits_and_every_parameter_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    net = small_networks()[name].train()
    images, labels = torch.randn(2, 3, 32, 48), torch.randint(3, (2, 32, 48))
    output = net(images)
    heads = [output.logits, *output.auxiliary] if isinstance(output, ClassifierOutput) else [output]
    assert all(logits.shape == (2, 3, 32, 48) for logits in heads)
    assert len(heads) == (2 if name in ("fcn", "deeplabv3") else 1)
    torch.stack([F.cross_entropy(logits, labels) for logits in heads]).sum().backward()  # type: ignore[no-untyped-call]
    without = [key for key, value in net.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert without == []
    with torch.inference_mode():
        assert net.eval()(images).shape == (2, 3, 32, 48)
    net.reset_classifier(5)
    assert net.num_classes == 5
    assert net(images).shape == (2, 5, 32, 48)
    assert net.state_dict()[f"{net.classifier_name}.bias"].shape == (5,)


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("size", [(500, 375), (33, 64), (1, 1)])
def test_fcn_on_vgg_takes_any_size(stride: Any, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        net = FCNVGG(backbone=vgg(), stride=stride)
        assert net(torch.empty(2, 3, *size)).shape == (2, 21, *size)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_fcn_s_scores_lie_over_the_pixels_that_they_are_of(stride: Any) -> None:
    """Centres, in pixels of the image, followed from layer to layer: the crops must bring them back."""
    with torch.device("meta"):
        net = FCNVGG(backbone=vgg(), stride=stride)
    centres: dict[str, tuple[float, float]] = {}
    centre, jump = -float(net.BORDER), 1.0
    for index, layer in enumerate(net.backbone.features):
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, step, padding = (
                int(value) if isinstance(value, int) else int(value[0])
                for value in (layer.kernel_size, layer.stride, layer.padding)
            )
            centre, jump = centre + ((kernel - 1) / 2 - padding) * jump, jump * step
        centres[net.backbone.maps.get(index, "")] = (centre, jump)
    centre += 3 * jump  # fc6
    for name, (_, offset) in net.SKIPS[stride].items():
        jump /= 2
        centre -= 1.5 * jump
        assert (centre, jump) == (centres[name][0] + offset * jump, centres[name][1])
    jump /= stride
    centre -= (2 * stride - 1) / 2 * jump
    assert (centre + net.OFFSETS[stride], jump) == (0, 1)


@pytest.mark.parametrize("factor", [2, 8])
@pytest.mark.parametrize("learnt", [True, False])
def test_upsampling_starts_as_bilinear_interpolation(factor: int, learnt: bool) -> None:
    x = torch.randn(1, 3, 6, 5)
    layer = Upsampling(3, factor, learnt=learnt)
    inside = slice(3 * factor // 2, -(3 * factor // 2))
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    ours = layer(x)[:, :, factor // 2 : -(factor // 2), factor // 2 : -(factor // 2)]
    torch.testing.assert_close(ours[:, :, inside, inside], expected[:, :, inside, inside])
    assert layer.weight.requires_grad == learnt


def test_fcn_on_vgg_starts_with_equal_scores() -> None:
    with torch.device("meta"):
        net = FCNVGG(backbone=vgg(), stride=8)
    for name in ("score_fr", "score_pool4", "score_pool3"):
        layer = net.get_submodule(name).to_empty(device="cpu")
        assert isinstance(layer, nn.Conv2d)
    trained = {name for name, value in net.named_parameters() if value.requires_grad}
    assert {"upscore_pool4.weight", "upscore_pool3.weight"} <= trained
    assert "upscore8.weight" not in trained


@pytest.mark.parametrize(("kernel", "rates"), [(7, [4]), (4, [4]), (3, [12]), (3, [6, 12, 18, 24])])
def test_deeplab_on_vgg_has_an_output_stride_of_8(kernel: int, rates: list[int]) -> None:
    with torch.device("meta"):
        net = DeepLabVGG(backbone=vgg(8), kernel=kernel, rates=rates)
        assert net.backbone.forward_features(torch.empty(1, 3, 321, 321)).shape[-2:] == (40, 40)
        assert net.get_submodule("fc6_0")(torch.empty(1, 512, 40, 40)).shape[-2:] == (40, 40)
        assert net(torch.empty(2, 3, 321, 225)).shape == (2, 21, 321, 225)


def test_vggs_that_do_not_fit_are_refused() -> None:
    with torch.device("meta"):
        small = VGG(configuration="D", stem="small")
        with pytest.raises(UserError, match=r"model\.net\.backbone\.stem=small: expected imagenet"):
            FCNVGG(backbone=small, stride=8)
        with pytest.raises(UserError, match=r"model\.net\.backbone\.output_stride: expected 8"):
            DeepLabVGG(backbone=vgg(32), rates=[12])


@pytest.mark.parametrize(("output_stride", "expected"), [(16, (2, 4, 8)), (8, (4, 8, 16))])
def test_multi_grid_multiplies_the_dilations_of_the_last_stage(output_stride: int, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        net = DeepLabV3(backbone=resnet(output_stride, 101), multi_grid=(1, 2, 4))
        dilations = [block.conv2.dilation[0] for block in net.backbone.layer4]  # type: ignore[union-attr]
        assert tuple(dilations) == expected
        side = {16: 33, 8: 65}[output_stride]
        maps = net.backbone.feature_maps(torch.empty(1, 3, 513, 513))
        assert maps["layer4"].shape[-2:] == (side, side)
        assert net(torch.empty(2, 3, 513, 257)).shape == (2, 21, 513, 257)
        with pytest.raises(UserError, match=r"model\.net\.multi_grid=\[1, 2\]: expected 3 numbers"):
            DeepLabV3(backbone=resnet(), multi_grid=(1, 2))


def test_unet_s_valid_sizes() -> None:
    """572 to 388 (figure 1), and every 16 pixels from 188 on."""
    with torch.device("meta"):
        net = UNet(num_classes=2, in_channels=1)
        for side in (188, 204, 572):
            assert net(torch.empty(1, 1, side, side)).shape == (1, 2, side - 184, side - 184)
            assert net.output_size(side) == side - 184
    for side in (187, 190, 180, 172, 571):
        with pytest.raises(UserError, match=rf"data\.image_size={side}: expected 188 or a multiple of 16 more"):
            net.output_size(side)


def test_unet_s_padded_sizes() -> None:
    net = UNet(padding="same", width=2, levels=4)
    assert net.output_size(96) == 96
    assert net(torch.randn(1, 3, 96, 96)).shape == (1, 21, 96, 96)
    with pytest.raises(UserError, match=r"data\.image_size=100: expected 8 or a multiple of 8 more"):
        net.output_size(100)


def test_unet_sees_what_lies_under_its_output() -> None:
    """Nothing is shifted on the way down and up: what four pixels see has its centre in their middle."""
    net = UNet(num_classes=1, in_channels=1, width=2, levels=3).eval().double()
    net.set_submodule("pool", nn.AvgPool2d(2))  # which looks at all of its pixels
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.rand(1, 1, 140, 140, dtype=torch.float64, requires_grad=True)
    out = net(image)
    assert out.shape[-1] == 100  # a border of 20 pixels
    out[0, 0, 50:54, 40].sum().backward()  # one position of the lowest level
    assert image.grad is not None
    rows = image.grad[0, 0].sum(dim=1)
    assert float((rows * torch.arange(140)).sum() / rows.sum()) == pytest.approx(20 + 51.5, abs=1e-6)


def test_unet_starts_from_he_s_initialisation() -> None:
    torch.manual_seed(0)
    net = UNet(width=32, levels=4)
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 2000:
            taps = 9 if layer.kernel_size == (3, 3) else 1
            expected = (2 / (layer.in_channels * taps)) ** 0.5
            assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.06), name
            assert layer.bias is None or not layer.bias.any()


TORCHVISIONS = {"fcn_resnet50": FCN, "deeplabv3_resnet50": DeepLabV3}


def ours(name: str, **arguments: Any) -> Segmenter:
    if name.startswith("fcn"):
        return FCN(backbone=resnet(), **arguments)
    return DeepLabV3(backbone=resnet(), rates=(12, 24, 36), auxiliary=True, **arguments)


def seeded(net: nn.Module, images: Tensor) -> Any:
    torch.manual_seed(1)
    return net(images)


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_torchvision_s_network_is_ours(name: str) -> None:
    """The same names and shapes, the same outputs in both modes, gradients and running statistics."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=5, weights_backbone=None, aux_loss=True)
    net = ours(name, num_classes=5)
    assert {key: value.shape for key, value in net.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    net.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 65, 49)
    for each in (net, theirs):
        each.train()
        for module in each.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
    expected, output = seeded(theirs, images), seeded(net, images)
    assert expected["out"].std() > 0
    assert torch.equal(output.logits, expected["out"])
    assert torch.equal(output.auxiliary[0], expected["aux"])
    statistics = dict(theirs.named_buffers())
    assert all(torch.equal(value, statistics[key]) for key, value in net.named_buffers())
    (expected["out"].square().mean() + 0.5 * expected["aux"].square().mean()).backward()
    (output.logits.square().mean() + 0.5 * output.auxiliary[0].square().mean()).backward()
    for key, parameter in net.named_parameters():
        reference = theirs.get_parameter(key).grad
        assert parameter.grad is not None
        assert float((parameter.grad - reference).norm()) <= 1e-5 * float(reference.norm()), key
    with torch.inference_mode():
        assert torch.equal(net.eval()(images), theirs.eval()(images)["out"])


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_a_training_step_is_torchvision_s_operations(name: str) -> None:
    """No operation more, forward and backward: speed, as far as it does not depend on the day."""
    counts = []
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights_backbone=None, aux_loss=True)
        for net in (theirs, ours(name)):
            with Operations() as operations:
                output = net.train()(torch.empty(2, 3, 129, 129))
                logits = list(output.values()) if isinstance(output, dict) else [output.logits, *output.auxiliary]
                torch.stack([each.square().mean() for each in logits]).sum().backward()  # type: ignore[no-untyped-call]
            counts.append(operations.counts)
    assert sum(counts[0].values()) > 400
    assert counts[0] == counts[1]


def test_torchvision_s_names() -> None:
    with torch.device("meta"):
        assert ours("fcn_resnet50").torchvision_name == "fcn_resnet50"
        assert ours("deeplabv3_resnet50").torchvision_name == "deeplabv3_resnet50"
        assert FCN(backbone=resnet(depth=101)).torchvision_name == "fcn_resnet101"
        assert FCN(backbone=resnet(16)).torchvision_name is None
        assert FCN(backbone=resnet(depth=18)).torchvision_name is None
        assert DeepLabV3(backbone=resnet()).torchvision_name is None
        assert DeepLabV3Plus(backbone=resnet()).torchvision_name is None
