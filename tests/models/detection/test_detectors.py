"""Detectors: their counts, torchvision's weights, a carried-over classifier, and what they make of odd targets."""

from pathlib import Path
from typing import Any, cast

import hydra
import pytest
import torch
import torchvision
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from convatlas.errors import UserError
from convatlas.models.classification.classifier import Classifier
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.classification.vgg import VGG
from convatlas.models.detection.detector import Detection, Detector, Proposals, Regions, Target, freeze_batch_norm
from convatlas.models.detection.faster_rcnn import FasterRCNNC4, FasterRCNNFPN, FasterRCNNVGG
from convatlas.models.detection.mask_rcnn import MaskRCNNC4, MaskRCNNFPN
from convatlas.models.weights import load_backbone, load_weights
from tests.models.zoo import FILES, load

NAMES = [name for name in FILES if "/task/detection@_here_" in load(name).get("defaults", [])]
TASK = FILES[NAMES[0]].parents[1] / "task" / "detection.yaml"
SIZES = [(60, 90), (64, 96)]


def build(name: str, **overrides: Any) -> Detector:
    config = cast(DictConfig, OmegaConf.merge(OmegaConf.load(TASK).net, load(name).net, overrides))
    config.num_classes = config.num_classes if "num_classes" in overrides else 4
    config.backbone.in_channels = 3
    with torch.device("meta"):
        net: Detector = hydra.utils.instantiate(config)
    return net


def small(kind: type[Detector] = MaskRCNNFPN, **arguments: Any) -> Detector:
    """A detector of each kind with little work; those on VGG-16 and `layer4` have no smaller form."""
    settings: dict[str, Any] = {
        "proposals": Proposals(before_nms=(60, 60), after_nms=(40, 40)),
        "regions": Regions(regions_per_image=16, score=0.0),
        "num_classes": 4,
    }
    if kind is FasterRCNNVGG:
        return kind(backbone=VGG(configuration="A"), anchor_sizes=(16, 32), **settings, **arguments)
    if issubclass(kind, FasterRCNNC4):
        return kind(backbone=ResNet(depth=50), anchor_sizes=(16, 32), **settings, **arguments)
    small_heads: dict[str, Any] = {"channels": 16, "head_width": 32, "anchor_sizes": (8, 16, 32, 64)}
    if kind is MaskRCNNFPN:
        small_heads["mask_channels"] = 16
    assert issubclass(kind, FasterRCNNFPN)
    return kind(backbone=CifarResNet(depth=8), **small_heads, **settings, **arguments)


def images() -> Tensor:
    """Two images of ``SIZES`` at the top left, zeros around."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.zeros(2, 3, 64, 96)
    for image, (height, width) in zip(batch, SIZES, strict=True):
        image[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    return batch


def targets(*counts: int) -> list[Target]:
    found: list[Target] = []
    for count in counts:
        masks = torch.zeros(count, 64, 96, dtype=torch.uint8)
        masks[:, 10:30, 20:50] = 1
        boxes = torch.tensor([[20.0, 10, 50, 30]]).repeat(count, 1)
        found.append({"boxes": boxes, "labels": torch.arange(count) % 4, "masks": masks})
    return found


def losses(net: Detector, what: list[Target]) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return cast(dict[str, Tensor], net.train()(images(), SIZES, what))


def detections(net: Detector) -> list[Detection]:
    with torch.inference_mode():
        return cast(list[Detection], net.eval()(images(), SIZES))


@pytest.mark.parametrize("name", NAMES)
def test_configuration_states_what_it_is(name: str) -> None:
    first, config = FILES[name].read_text(encoding="utf-8").splitlines()[0], load(name)
    classes = int(first.split(" M parameters at ")[1].split()[0])
    count = sum(parameter.numel() for parameter in build(name, num_classes=classes).parameters())
    assert f": {count / 1e6:.2f} M parameters at {classes} classes" in first
    assert config.name == name


@pytest.mark.parametrize(
    ("name", "trained", "frozen"),
    [("faster_rcnn_resnet50_fpn", 41_808_406, 41_755_286), ("mask_rcnn_resnet50_fpn", 44_454_513, 44_401_393)],
)
def test_counts_are_those_of_torchvision(name: str, trained: int, frozen: int) -> None:
    """With 90 classes of COCO and the background; frozen batch norm has no parameters."""
    for batch_norm, expected in (("trained", trained), ("frozen", frozen)):
        net = build(name, num_classes=90, batch_norm=batch_norm)
        assert sum(parameter.numel() for parameter in net.parameters()) == expected


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("faster_rcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn"), ("mask_rcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")],
)
def test_torchvisions_weights_give_its_detections(name: str, theirs: str) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.get_model(
        theirs, weights=None, weights_backbone=None, min_size=96, max_size=128, box_score_thresh=0.0
    )
    net = build(name, num_classes=90, regions={"score": 0.0})
    assert net.torchvision_name == theirs
    net.load_state_dict({key: value.clone() for key, value in reference.state_dict().items()}, assign=True)
    reference.load_state_dict(net.state_dict())
    pictures = [torch.rand(3, 96, 128), torch.rand(3, 100, 96)]
    with torch.inference_mode():
        batch, _ = reference.eval().transform(pictures)
        features = reference.backbone(batch.tensors)
        proposals, _ = reference.rpn(batch, features)
        expected, _ = reference.roi_heads(features, proposals, batch.image_sizes)
        found = net.eval()(batch.tensors, batch.image_sizes)
    for mine, other in zip(found, expected, strict=True):
        assert len(mine["labels"]) > 10
        assert torch.equal(mine["labels"], other["labels"] - 1)
        assert all(torch.equal(mine[key], other[key]) for key in other if key != "labels")


@pytest.mark.parametrize("name", ["faster_rcnn_resnet50_fpn", "mask_rcnn_resnet50_fpn"])
def test_losses_are_those_of_torchvision(name: str) -> None:
    reference = torchvision.models.get_model(name.replace("_r", "r", 1), weights=None, weights_backbone=None).train()
    net = build(name, num_classes=90).train()
    net.load_state_dict(reference.state_dict(), assign=True)
    what = targets(2, 0)
    shifted = [{**target, "labels": target["labels"] + 1} for target in what]
    torch.manual_seed(1)
    batch = torchvision.models.detection.image_list.ImageList(images(), SIZES)
    features = reference.backbone(batch.tensors)
    proposals, expected = reference.rpn(batch, features, shifted)
    _, head_losses = reference.roi_heads(features, proposals, SIZES, shifted)
    found = losses(net, what)
    assert found.keys() == {**expected, **head_losses}.keys()
    assert all(torch.equal(found[key], value) for key, value in {**expected, **head_losses}.items())


@pytest.mark.parametrize("kind", [FasterRCNNVGG, FasterRCNNC4, FasterRCNNFPN, MaskRCNNC4, MaskRCNNFPN])
@pytest.mark.parametrize("counts", [(2, 1), (2, 0), (0, 0)])
def test_every_kind_trains_with_and_without_objects(kind: type[Detector], counts: tuple[int, int]) -> None:
    torch.manual_seed(0)
    net = small(kind)
    found = losses(net, targets(*counts))
    names = {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    assert found.keys() == (names | {"loss_mask"} if net.has_masks else names)
    torch.stack(list(found.values())).sum().backward()  # type: ignore[no-untyped-call]
    without = [
        name
        for name, parameter in net.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all())
    ]
    assert without == []


@pytest.mark.parametrize("kind", [FasterRCNNVGG, MaskRCNNC4, MaskRCNNFPN])
def test_detections_have_classes_from_zero_and_lie_in_the_image(kind: type[Detector]) -> None:
    torch.manual_seed(0)
    for found, (height, width) in zip(detections(small(kind)), SIZES, strict=True):
        count = len(found["scores"])
        assert 0 < count <= 100
        assert found["labels"].min() >= 0
        assert found["labels"].max() < 4
        assert (found["scores"].diff() <= 0).all()
        assert (found["boxes"] >= 0).all()
        assert (found["boxes"] <= torch.tensor([width, height, width, height])).all()
        assert kind is FasterRCNNVGG or found["masks"].shape[:2] == (count, 1)


def test_mask_heads_have_the_papers_sizes() -> None:
    for name, side in (("mask_rcnn_resnet50_c4", 14), ("mask_rcnn_resnet50_fpn", 28)):
        net = build(name).eval()
        regions = torch.empty(3, 1024 if side == 14 else 256, 14, 14, device="meta")
        assert net.roi_heads.mask_predictor(net.roi_heads.mask_head(regions)).shape == (3, 5, side, side)


def test_the_head_shared_with_masks_is_saved_once() -> None:
    names = build("mask_rcnn_resnet50_c4").state_dict()
    assert sum("conv3.weight" in name and "box_head" in name for name in names) == 3
    assert not any("mask_head" in name for name in names)


@pytest.mark.parametrize(
    ("kind", "classifier"),
    [
        (FasterRCNNVGG, lambda: VGG(configuration="A")),
        (MaskRCNNC4, lambda: ResNet(depth=50)),
        (MaskRCNNFPN, lambda: CifarResNet(depth=8)),
    ],
)
def test_a_trained_classifier_is_carried_over(kind: type[Detector], classifier: Any, tmp_path: Path) -> None:
    """All of it but its last layer; the detector's feature maps are then the classifier's."""
    torch.manual_seed(0)
    trained: Classifier = classifier().eval()
    for layer in trained.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean)  # type: ignore[arg-type]
    torch.save({"state_dict": {f"net.{name}": value for name, value in trained.state_dict().items()}}, tmp_path / "w")
    net = small(kind).eval()
    report = load_backbone(net, str(tmp_path / "w"))
    assert report.unused == tuple(f"{trained.classifier_name}.{part}" for part in ("weight", "bias"))
    assert len(report.loaded) == len(trained.state_dict()) - 2
    assert not any(name.startswith(net.carried) for name in report.new)
    with torch.inference_mode():
        maps = trained.feature_maps(images())
        if isinstance(trained, VGG):
            assert torch.equal(net.backbone(images())["0"], maps["conv5"])
            pooled = maps["pool5"].repeat(1, 1, 4, 3)[:, :, :7, :7]
            expected = trained.classifier[:-1](pooled.flatten(1))
            assert torch.equal(net.roi_heads.box_head(pooled), expected)
        elif kind is MaskRCNNC4:
            found = net.backbone(images())["0"]
            torch.testing.assert_close(found, maps["layer3"])
            torch.testing.assert_close(net.roi_heads.box_head.feature_map(found), maps["layer4"])
        else:
            assert isinstance(net, FasterRCNNFPN)
            assert torch.equal(net.backbone.body.feature_maps(images())["layer3"], maps["layer3"])


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    torch.save(CifarResNet(depth=14).state_dict(), tmp_path / "deeper")
    with pytest.raises(UserError, match=r"unexpected: backbone\.body\.layer1\.1\.conv1"):
        load_backbone(small(), str(tmp_path / "deeper"))


def test_weights_of_other_classes_are_taken_with_new_last_layers(tmp_path: Path) -> None:
    """A detector's file has one output more than classes."""
    source = small()
    torch.save(source.state_dict(), tmp_path / "w")
    target = small(batch_norm="frozen")
    target.reset_classifier(7)
    with pytest.raises(UserError, match="reset_classifier=true takes weights of another number of classes"):
        load_weights(target, str(tmp_path / "w"))
    load_weights(target, str(tmp_path / "w"), reset_classifier=True)
    assert target.num_classes == 7
    assert torch.equal(target.roi_heads.box_head.fc6.weight, source.roi_heads.box_head.fc6.weight)


def test_frozen_batch_norm_is_the_same_function_and_never_changes() -> None:
    torch.manual_seed(0)
    plain = CifarResNet(depth=8)
    plain.train()(images())
    frozen = CifarResNet(depth=8)
    frozen.load_state_dict(plain.state_dict())
    freeze_batch_norm(frozen)
    torch.testing.assert_close(frozen.train().forward_features(images()), plain.eval().forward_features(images()))
    assert not any("bn" in name for name, _ in frozen.named_parameters())


@pytest.mark.parametrize(
    ("kind", "stages", "first_trained"),
    [(FasterRCNNVGG, 2, "features.6"), (FasterRCNNFPN, 2, "layer2.0"), (FasterRCNNFPN, 0, "conv1")],
)
def test_frozen_stages_are_the_first(kind: type[Detector], stages: int, first_trained: str) -> None:
    net = small(kind, frozen_stages=stages)
    trained = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert trained[0].removeprefix("backbone.body.").startswith(first_trained)


def test_new_classes_renew_the_last_layers_alone() -> None:
    net = small()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.reset_classifier(7)
    changed = {name for name, value in net.state_dict().items() if value.shape != before[name].shape}
    last = ("roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")
    last += ("roi_heads.mask_predictor.mask_fcn_logits",)  # type: ignore[assignment]
    assert changed == {f"{layer}.{part}" for layer in last for part in ("weight", "bias")}
    assert net.num_classes == 7
    assert torch.stack(list(losses(net, targets(1, 1)).values())).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FasterRCNNVGG(backbone=VGG(configuration="A", stem="small"), **parts()),
            "expected imagenet, whose fc6",
        ),
        (lambda: FasterRCNNC4(backbone=ResNet(depth=50, output_stride=16), **parts()), "output_stride=32"),
        (
            lambda: FasterRCNNFPN(backbone=CifarResNet(depth=8), **parts()),
            "expected 4 sizes, one for each stage of Cifar",
        ),
    ],
)
def test_a_backbone_that_does_not_fit_is_named(make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message), torch.device("meta"):
        make()


def parts() -> dict[str, Any]:
    return {"proposals": Proposals(), "regions": Regions()}
