"""Base class of all detectors: a region proposal network and heads on the regions (R-CNN).

The region proposal network, the region heads and their losses are torchvision's. Therefore the parameters have
torchvision's names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NotRequired, TypedDict, cast

import torch
from annotated_types import Interval
from pydantic import PositiveInt
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FrozenBatchNorm2d

from convatlas.models.base import Architecture, OnBackbone
from convatlas.models.classification.resnet import CifarResNet, ResNet
from convatlas.models.classification.vgg import VGG

ResidualBackbone = ResNet | CifarResNet


class Target(TypedDict):
    """The objects of a training image. There may be none.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels of the network's input, x1 > x0 and y1 > y0, (n, 4) float32.
        labels: Classes from 0, (n,) int64.
        masks: Masks of 0 and 1 with the size of the batch's images, (n, H, W) uint8. Only for Mask R-CNN.
    """

    boxes: Tensor
    labels: Tensor
    masks: NotRequired[Tensor]


class Detection(TypedDict):
    """Detections in an image, in descending order of their scores.

    Attributes:
        boxes: x0, y0, x1, y1 in pixels of the network's input, (n, 4) float32.
        labels: Classes from 0, (n,) int64.
        scores: Probability of the class, (n,) float32.
        masks: Probability that a point of the box belongs to the object, (n, 1, m, m). Only for Mask R-CNN.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: NotRequired[Tensor]


Share = Annotated[float, Interval(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Settings of the region proposal network (Faster R-CNN, sections 3.1 to 3.3).

    Args:
        positive_iou: An anchor is positive if its IoU with an object is at least this, or if no other anchor has a
            larger IoU with the object.
        negative_iou: An anchor is background if its IoU with every object is below this.
        anchors_per_image: Number of anchors that are sampled from each image for the loss.
        positive_share: Maximum share of positive anchors among them.
        nms_iou: Non-maximum suppression removes a proposal whose IoU with a better one is above this.
        before_nms: Number of proposals of each level that are kept before non-maximum suppression, in training and
            in evaluation.
        after_nms: Number of proposals that are kept after it, in training and in evaluation.
    """

    positive_iou: Share = 0.7
    negative_iou: Share = 0.3
    anchors_per_image: PositiveInt = 256
    positive_share: Share = 0.5
    nms_iou: Share = 0.7
    before_nms: tuple[PositiveInt, PositiveInt] = (2000, 1000)
    after_nms: tuple[PositiveInt, PositiveInt] = (2000, 1000)


@dataclass(frozen=True, kw_only=True)
class Regions:
    """Settings of the heads on the proposed regions (Faster R-CNN, section 4; FPN, section 5.2).

    Args:
        positive_iou: A region is positive if its IoU with an object is at least this; otherwise it is background.
        regions_per_image: Number of regions that are sampled from each image for the loss.
        positive_share: Maximum share of positive regions among them.
        score: Detections with a lower probability are removed.
        nms_iou: Non-maximum suppression removes a detection whose IoU with a better one of its class is above this.
        detections_per_image: Maximum number of detections of an image.
    """

    positive_iou: Share = 0.5
    regions_per_image: PositiveInt = 512
    positive_share: Share = 0.25
    score: Share = 0.05
    nms_iou: Share = 0.5
    detections_per_image: PositiveInt = 100


class Detector(OnBackbone):
    """A network that detects objects in images.

    The parameters have the names and shapes of torchvision's detectors, in which class 0 is the background. Here
    ``num_classes`` and the labels do not include the background.

    Args:
        backbone: Maps images to feature maps by name, from fine to coarse, each with ``out_channels`` channels.
        anchors: Sizes and aspect ratios of the anchors of each map.
        box_pool: Pools regions from the maps.
        box_head: Maps a region to ``box_features`` features.
        box_features: Number of features of a region.
        proposals: See ``Proposals``.
        regions: See ``Regions``.
        in_channels: Number of channels of the images.
        num_classes: Number of classes.
    """

    image_size = 800
    classifier_name = "roi_heads.box_predictor.cls_score"
    background_outputs = 1
    carried: ClassVar[tuple[str, ...]] = ("backbone.body.",)
    head_layers: ClassVar[Mapping[str, str]] = {}
    """Maps prefixes of names in a classification network to prefixes in the head, for layers that the head takes."""

    def __init__(
        self,
        *,
        backbone: nn.Module,
        anchors: AnchorGenerator,
        box_pool: nn.Module,
        box_head: nn.Module,
        box_features: int,
        proposals: Proposals,
        regions: Regions,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.box_features = box_features
        self.backbone = backbone
        (per_position,) = set(anchors.num_anchors_per_location())
        self.rpn = RegionProposalNetwork(
            anchors,
            RPNHead(backbone.out_channels, per_position),
            proposals.positive_iou,
            proposals.negative_iou,
            proposals.anchors_per_image,
            proposals.positive_share,
            dict(zip(("training", "testing"), proposals.before_nms, strict=True)),
            dict(zip(("training", "testing"), proposals.after_nms, strict=True)),
            proposals.nms_iou,
        )
        self.roi_heads = RoIHeads(
            box_pool,
            box_head,
            None,
            regions.positive_iou,
            regions.positive_iou,
            regions.regions_per_image,
            regions.positive_share,
            None,
            regions.score,
            regions.nms_iou,
            regions.detections_per_image,
        )
        self.reset_classifier(num_classes)

    @property
    def has_masks(self) -> bool:
        """Whether the network predicts masks."""
        return bool(self.roi_heads.has_mask())

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layers of the heads by new ones for ``num_classes`` classes.

        They are initialised as in Fast R-CNN (section 3.1): the weights of the class scores from N(0, 0.01^2), those
        of the boxes from N(0, 0.001^2).
        """
        self.num_classes = num_classes
        predictor = FastRCNNPredictor(self.box_features, num_classes + 1)
        for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
        self.roi_heads.box_predictor = predictor
        if self.has_masks:
            logits = self.roi_heads.mask_predictor.mask_fcn_logits
            self.roi_heads.mask_predictor.mask_fcn_logits = mask_logits(logits.in_channels, num_classes)

    @property
    def classifier_body(self) -> Architecture:
        """The classification network without its head."""
        body: Architecture = self.backbone.body  # type: ignore[assignment]
        return body

    def convert_backbone_state_dict(self, classifier: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the state dict of a classifier: remove its last layer, and rename the others to the body or head."""
        last = f"{self.classifier_body.classifier_name}."
        carried = {}
        for name, value in classifier.items():
            start = next((start for start in self.head_layers if name.startswith(start)), "")
            if not name.startswith(last):
                carried[self.head_layers.get(start, "backbone.body.") + name.removeprefix(start)] = value
        return carried

    def forward(
        self, images: Tensor, sizes: Sequence[tuple[int, int]], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detection]:
        """Map normalised images to losses in training, and to detections in evaluation.

        Args:
            images: Batch (N, C, H, W). Each image is at the top left and is padded with zeros.
            sizes: Height and width of each image without padding.
            targets: The objects of each image; required in training.

        Returns:
            In training, the scalar losses ``loss_classifier``, ``loss_box_reg``, ``loss_objectness``,
            ``loss_rpn_box_reg`` and, with masks, ``loss_mask``. In evaluation, the detections of each image.
        """
        shifted = None if targets is None else [{**target, "labels": target["labels"] + 1} for target in targets]
        features = self.backbone(images)
        proposals, losses = self.rpn(ImageList(images, list(sizes)), features, shifted)
        detections, head_losses = self.roi_heads(features, proposals, list(sizes), shifted)
        if self.training:
            return {**head_losses, **losses}
        return [cast(Detection, {**found, "labels": found["labels"] - 1}) for found in detections]


class SingleMap(nn.Module):
    """A backbone with a single feature map: a classification network without the layers of its head.

    Args:
        body: The network, which ends after that map.
        out_channels: Number of channels of the map.
    """

    def __init__(self, body: ResNet | VGG, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to one feature map (N, out_channels, h, w)."""
        return {"0": self.body.forward_features(x)}


class OnSingleMap(nn.Module):
    """Pools regions from a single feature map.

    Args:
        pool: RoI pooling or RoIAlign.
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, features: Mapping[str, Tensor], boxes: list[Tensor], sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Pool the boxes (n, 4) of each image from a feature map (N, C, h, w) to (sum of n, C, side, side)."""
        out: Tensor = self.pool(features["0"], boxes)
        return out


def mask_logits(in_channels: int, num_classes: int) -> nn.Conv2d:
    """Create the last layer of a mask head, with a mask for each class and an unused one for the background."""
    layer = nn.Conv2d(in_channels, num_classes + 1, 1)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def freeze_batch_norm(net: nn.Module) -> None:
    """Replace each batch norm by one whose statistics, scale and shift are constants.

    The batches of a detector are too small to estimate them (ResNet, appendix A).
    """
    for name, layer in list(net.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(layer.num_features, layer.eps)
            frozen.load_state_dict(layer.state_dict())
            net.set_submodule(name, frozen)


def freeze_stages(body: ResidualBackbone | VGG, stages: int) -> None:
    """Freeze the parameters of the first stages.

    A stage consists of the layers between two changes of resolution. The first stage of a ResNet is its stem.
    """
    if isinstance(body, VGG):
        ends = [index for index, name in body.maps.items() if name == f"pool{stages}"]
        layers: list[nn.Module] = list(body.features[: ends[0]]) if ends else []
    else:
        names = [("conv1", "bn1"), *((name,) for name in body.stages)][:stages]
        layers = [body.get_submodule(name) for stage in names for name in stage]
    for layer in layers:
        layer.requires_grad_(False)


def in_stored_image(found: Detection, size: tuple[int, int], stored: tuple[int, int]) -> Detection:
    """Convert detections to pixels of the stored image.

    Args:
        found: The detections of the network in an image.
        size: Height and width of the image in the input of the network.
        stored: Height and width of the stored image.

    Returns:
        The converted detections. ``masks`` become (n, H, W) bool, true for probabilities of at least 0.5 (Mask R-CNN,
        section 3.1).
    """
    factors = [stored[1] / size[1], stored[0] / size[0]] * 2
    boxes = found["boxes"] * torch.tensor(factors, device=found["boxes"].device)
    result: Detection = {**found, "boxes": boxes}
    if "masks" in found:
        result["masks"] = paste_masks_in_image(found["masks"], boxes, stored)[:, 0] >= 0.5
    return result
