"""What is known of how weights were trained, and weights that load by name and mean something else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.models.base import Architecture
from convatlas.models.classification.googlenet import GoogLeNetTorchvision
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.classification.vgg import VGG
from convatlas.models.detection.detector import Proposals, Regions, freeze_batch_norm
from convatlas.models.detection.faster_rcnn import FasterRCNNFPN
from convatlas.models.detection.mask_rcnn import MaskRCNNFPN
from convatlas.models.published_weights import least_input_deviation, published_weights
from convatlas.models.segmentation.fcn import FCN, FCNVGG
from convatlas.models.weights import load_backbone, load_weights
from tests.models.segmentation.test_dilation import settle
from tests.models.zoo import build

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SETTINGS: dict[str, Any] = {"proposals": Proposals(), "regions": Regions()}


def file_name(network: str, name: str = "DEFAULT") -> str:
    """What torchvision calls a file of weights."""
    return Path(torchvision.models.get_model_weights(network)[name].url).name


def run_checkpoint(state: Mapping[str, Tensor], arguments: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint of ours says of its network and its images."""
    data = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}
    record = {"run_id": "resnet-data-1a2b3c4d-s0", "config": {"model": {"net": arguments}, "data": data}}
    names = {f"net.{name}": value for name, value in state.items()}
    return {"state_dict": names, "convatlas": record | {"class_list": ["cat", "dog"]}}


@pytest.mark.parametrize(
    ("network", "name", "mean_and_std", "background", "classes"),
    [
        ("resnet50", "IMAGENET1K_V2", IMAGENET, 0, 1000),
        ("googlenet", "IMAGENET1K_V1", ((0.5,) * 3, (0.5,) * 3), 0, 1000),
        ("vgg16", "IMAGENET1K_FEATURES", ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3), 0, 0),
        ("deeplabv3_resnet101", "COCO_WITH_VOC_LABELS_V1", IMAGENET, 0, 21),
        ("maskrcnn_resnet50_fpn", "COCO_V1", IMAGENET, 1, 90),
    ],
)
def test_torchvisions_files_are_known_by_name(
    network: str, name: str, mean_and_std: tuple[tuple[float, ...], ...], background: int, classes: int
) -> None:
    found = published_weights(Path("somewhere") / file_name(network, name), background)
    assert found is not None
    assert found.name == f"torchvision's {network} {name}"
    assert (found.mean, found.std) == mean_and_std
    assert len(found.classes) == classes
    assert found.epsilon == (0.0 if "rcnn" in network else None)
    assert published_weights(Path("best.ckpt"), 0) is None
    earlier = published_weights(Path("resnet50-19c8e357.pth"), 0)
    assert earlier is not None
    assert earlier.name == "torchvision's resnet50 IMAGENET1K_V1"


def test_googlenets_mean_and_deviation_are_what_torchvision_feeds_its_network() -> None:
    reference = torchvision.models.googlenet(init_weights=False, transform_input=True)
    pixels = torch.rand(1, 3, 4, 4)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(reference._transform_input((pixels - mean) / std), (pixels - 0.5) / 0.5)
    assert GoogLeNetTorchvision().conv1.bn.eps == reference.conv1.bn.eps == 1e-3


@pytest.mark.filterwarnings("ignore:.*which is a no-op")  # nothing is computed
@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_the_stride_of_a_bottleneck_is_that_of_the_training(stride_in: Literal["1x1", "3x3"], tmp_path: Path) -> None:
    """State dicts of v1 and v1.5 have the same names and shapes."""
    with torch.device("meta"):
        net = ResNet(depth=50, stride_in=stride_in, num_classes=2)
        on_net = FCN(backbone=ResNet(depth=50, stride_in=stride_in, output_stride=8))
    state = {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in net.state_dict().items()}
    files: dict[str, tuple[Mapping[str, Any], str]] = {
        file_name("resnet50"): (state, "torchvision's resnet50 IMAGENET1K_V2 was trained with stride_in=3x3"),
        "best.ckpt": (
            run_checkpoint(state, {"stride_in": "3x3"}),
            "resnet-data-1a2b3c4d-s0 was trained with stride_in",
        ),
    }
    for name, (content, message) in files.items():
        torch.save(content, tmp_path / name)
        if stride_in == "3x3":
            assert load_weights(net, f"{tmp_path}/{name}").assumed == ()
            assert load_backbone(on_net, f"{tmp_path}/{name}").assumed == ()
        else:
            with pytest.raises(UserError, match=rf"model\.weights=.*{message}.* this ResNet has stride_in=1x1; names"):
                load_weights(net, f"{tmp_path}/{name}")
            with pytest.raises(UserError, match=rf"model\.backbone\.weights=.*{message}"):
                load_backbone(on_net, f"{tmp_path}/{name}")
    torch.save(state, tmp_path / "renamed.pth")
    report = load_weights(net, f"{tmp_path}/renamed.pth")
    assert str(report).endswith(f"; the file does not say, so as configured: stride_in={stride_in}, pool=padded")


def test_the_pool_of_caffe_s_resnets_rounds_up_without_padding() -> None:
    net, usual = ResNet(depth=18, pool="ceil").eval(), ResNet(depth=18).eval()
    usual.load_state_dict(net.state_dict())
    images = torch.randn(1, 3, 64, 64)
    maps, others = net.feature_maps(images), usual.feature_maps(images)
    expected = net.layer1(nn.functional.max_pool2d(maps["conv1"], 3, 2, ceil_mode=True))
    assert torch.equal(maps["layer1"], expected)
    assert maps["layer1"].shape == others["layer1"].shape
    assert not torch.allclose(maps["layer1"], others["layer1"])
    assert net.torchvision_name is None
    assert net.unnamed_settings == {"pool": "ceil"}


def test_a_checkpoint_of_ours_says_where_option_a_pads(tmp_path: Path) -> None:
    for arguments, padding in (({"shortcut": "A"}, "end"), ({"shortcut_padding": "both"}, "both")):
        torch.save(run_checkpoint(CifarResNet(depth=8).state_dict(), arguments), tmp_path / "w.ckpt")
        here: Literal["end", "both"]
        for here in ("end", "both"):
            net = CifarResNet(depth=8, shortcut_padding=here)
            if here == padding:
                assert load_weights(net, f"{tmp_path}/w.ckpt").assumed == ()
            else:
                with pytest.raises(UserError, match=f"with shortcut_padding={padding}, .* shortcut_padding={here}"):
                    load_weights(net, f"{tmp_path}/w.ckpt")
    assert CifarResNet(depth=8, shortcut="B").unnamed_settings == {}
    assert CifarResNet(depth=8, residual=False).unnamed_settings == {}
    assert ResNet(depth=18).unnamed_settings == {"pool": "padded"}
    assert ResNet(depth=18, stem="small").unnamed_settings == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    source = CifarResNet(depth=8)
    nn.init.constant_(source.fc.weight, value)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    target = CifarResNet(depth=8)
    nn.init.zeros_(target.fc.weight)
    with pytest.raises(UserError, match=r"w\.pth: values that are not finite in fc\.weight"):
        load_weights(target, f"{tmp_path}/w.pth")
    assert not target.fc.weight.any()


def test_weights_without_a_classifier_are_refused() -> None:
    """torchvision's VGG16_Weights.IMAGENET1K_FEATURES: all our networks on a VGG use its linear layers too."""
    with torch.device("meta"):
        net, on_net = VGG(configuration="D"), FCNVGG(backbone=VGG(configuration="D"), stride=32)
    name = file_name("vgg16", "IMAGENET1K_FEATURES")
    message = f"{name}: torchvision's vgg16 IMAGENET1K_FEATURES has no values for the classifier"
    with pytest.raises(UserError, match=rf"model\.weights={message}"):
        load_weights(net, name)
    with pytest.raises(UserError, match=rf"model\.backbone\.weights={message}"):
        load_backbone(on_net, name)


def test_cocos_unused_category_numbers_are_left_out(tmp_path: Path) -> None:
    """torchvision's detectors have an output for each of 90 category numbers, and 80 of them are classes."""

    def detector(num_classes: int) -> MaskRCNNFPN:
        return MaskRCNNFPN(backbone=ResNet(depth=18), channels=16, num_classes=num_classes, **SETTINGS)

    name = "maskrcnn_resnet50_fpn"
    names = torchvision.models.get_model_weights(name)["DEFAULT"].meta["categories"]
    source, target = detector(90), detector(80)
    torch.save(source.state_dict(), tmp_path / file_name(name))
    report = load_weights(target, f"{tmp_path}/{file_name(name)}")
    assert report.classes == tuple(name for name in names[1:] if name != "N/A")
    theirs, ours = source.state_dict(), target.state_dict()
    for label, class_name in enumerate(["__background__", *report.classes]):
        row = names.index(class_name)
        for part, each in (("box_predictor.cls_score", 1), ("box_predictor.bbox_pred", 4), ("mask_predictor.", 1)):
            for key in (key for key in ours if part in key and ("mask_" not in part or "logits" in key)):
                expected = theirs[key][each * row : each * (row + 1)]
                assert torch.equal(ours[key][each * label : each * (label + 1)], expected)
    assert torch.equal(ours["roi_heads.box_head.fc6.weight"], theirs["roi_heads.box_head.fc6.weight"])
    torch.save(source.state_dict(), tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"misshapen: roi_heads\.box_predictor\.cls_score\.weight \(91, 1024\)"):
        load_weights(target, f"{tmp_path}/other.pth")


def test_torchvisions_detectors_for_coco_have_no_epsilon() -> None:
    """torchvision sets it to 0 when it loads them; with that, the backbone's maps are the same."""
    arguments: dict[str, Any] = {"num_classes": 4, "channels": 16, **SETTINGS}
    torch.manual_seed(0)
    epsilons: list[dict[str, Any]] = [{}, {"batch_norm_epsilon": 1e-5}, {"batch_norm_epsilon": 0.0}]
    nets = [
        FasterRCNNFPN(backbone=ResNet(depth=18), batch_norm="frozen", **arguments, **epsilon) for epsilon in epsilons
    ]
    reference = ResNet(depth=18)
    for layer in reference.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_var, 1e-6, 1e-4)  # type: ignore[arg-type]
    del reference.fc
    freeze_batch_norm(reference)
    images, maps = torch.randn(1, 3, 64, 64), []
    for net in nets:
        net.backbone.body.load_state_dict(reference.state_dict())
        maps.append(net.backbone.body.feature_maps(images)["layer2"])
    torchvision.models.detection._utils.overwrite_eps(reference, 0.0)
    assert torch.equal(maps[0], maps[1])
    assert torch.equal(maps[2], reference.feature_maps(images)["layer2"])
    assert not torch.allclose(maps[0], maps[2])
    with pytest.raises(UserError, match=r"batch_norm_epsilon=0: expected model\.net\.batch_norm=frozen"):
        FasterRCNNFPN(backbone=ResNet(depth=18), batch_norm_epsilon=0.0, **arguments)


def smooth_images(scale: float) -> Tensor:
    """Images whose neighbouring pixels resemble each other, of a standard deviation near ``scale``."""
    noise = torch.randn(8, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(noise, size=(64, 64), mode="bilinear")
    return scale * (images - images.mean()) / images.std()


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet50_v15", "vgg11_bn"])
def test_the_first_batch_norm_shows_inputs_of_0_to_255(name: str) -> None:
    """A bound from below: it never says more than the inputs had, and says enough of pixels of 0 to 255."""
    torch.manual_seed(0)
    stem: dict[str, Any] = {"stem": "imagenet"} if name.startswith("resnet50") else {}
    net = build(name, **stem)
    assert least_input_deviation(net) is None, "its batch norm has seen nothing"
    settle(net, smooth_images(1))
    usual = least_input_deviation(net)
    assert usual is not None
    assert 0 < usual <= 1
    settle(net, smooth_images(58))
    large = least_input_deviation(net)
    assert large is not None
    assert 0.5 / 0.225 < large <= 58
    state = net.state_dict()  # the same function of pixels of 0 to 255, from weights for normalised ones
    settle(net, smooth_images(1))
    conv = next(layer for layer in net.modules() if isinstance(layer, nn.Conv2d))
    conv.weight.data /= 58
    assert least_input_deviation(net) == pytest.approx(58 * usual, rel=1e-4)
    assert state.keys() == net.state_dict().keys()


@pytest.mark.parametrize("net", [VGG(configuration="A", stem="small"), GoogLeNetTorchvision(stem="small")])
def test_networks_that_say_nothing_of_their_inputs(net: Architecture) -> None:
    assert least_input_deviation(net) is None
