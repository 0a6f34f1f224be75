"""Faster R-CNN (Ren, He, Girshick and Sun, NIPS 2015) on VGG-16, on ResNet's fourth stage and on feature pyramids."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, cast

from annotated_types import Interval
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d, MultiScaleRoIAlign, RoIPool
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from convatlas.errors import UserError
from convatlas.models.classification.resnet import ResNet
from convatlas.models.classification.vgg import VGG
from convatlas.models.detection.detector import (
    Detector,
    OnSingleMap,
    Proposals,
    Regions,
    ResidualBackbone,
    SingleMap,
    freeze_batch_norm,
    freeze_stages,
)

RATIOS = (0.5, 1.0, 2.0)
"""Height divided by width of the anchors."""
ANCHORS = (128, 256, 512)
"""Square roots of their areas in pixels (section 3.1.1); COCO's experiments add 64 (section 4.2)."""

Stages = Annotated[int, Interval(ge=0, le=5)]


class FasterRCNNVGG(Detector):
    """Faster R-CNN on VGG-16: proposals from ``conv5``, RoI pooling to 7x7, then fc6 and fc7 (section 3).

    Args:
        backbone: A VGG with the ``imagenet`` stem. Its fc6 and fc7 become the head.
        anchor_sizes: Sides of the square anchors, in pixels.
        frozen_stages: Number of stages that are not trained. 2 as in the paper, which trains ``conv3`` and up (section
            3.3).
        proposals: See ``Proposals``.
        regions: See ``Regions``.
        num_classes: Number of classes without the background.

    Raises:
        UserError: The VGG has the small stem.
    """

    carried = ("backbone.body.", "roi_heads.box_head.")
    head_layers: ClassVar[Mapping[str, str]] = {"classifier.": "roi_heads.box_head.1."}

    def __init__(
        self,
        *,
        backbone: VGG,
        anchor_sizes: Sequence[PositiveInt] = ANCHORS,
        frozen_stages: Stages = 2,
        proposals: Proposals,
        regions: Regions,
        num_classes: int = 20,
    ) -> None:
        if backbone.stem != "imagenet":
            raise UserError("model.net.backbone.stem=small: expected imagenet, whose fc6 reads regions of 7x7")
        freeze_stages(backbone, frozen_stages)
        head = nn.Sequential(nn.Flatten(), backbone.classifier[:-1])
        backbone.features = backbone.features[:-1]
        del backbone.classifier
        super().__init__(
            backbone=SingleMap(backbone, 512),
            anchors=AnchorGenerator((tuple(anchor_sizes),), (RATIOS,)),
            box_pool=OnSingleMap(RoIPool(7, 1 / 16)),
            box_head=head,
            box_features=backbone.num_features,
            proposals=proposals,
            regions=regions,
            in_channels=backbone.in_channels,
            num_classes=num_classes,
        )


class FasterRCNNC4(Detector):
    """Faster R-CNN on a ResNet: proposals from ``layer3``, RoI pooling to 14x14, then ``layer4`` (ResNet, appendix A).

    Batch norm is frozen. Therefore the network requires a trained ResNet.

    Args:
        backbone: A ResNet of bottlenecks with the ``imagenet`` stem. Its last stage becomes the head.
        anchor_sizes: Sides of the square anchors, in pixels.
        frozen_stages: Number of stages that are not trained. The stem is the first.
        proposals: See ``Proposals``.
        regions: See ``Regions``.
        num_classes: Number of classes without the background.

    Raises:
        UserError: The ResNet has the small stem or dilation.
    """

    carried = ("backbone.body.", "roi_heads.box_head.")
    head_layers: ClassVar[Mapping[str, str]] = {"layer4.": "roi_heads.box_head.layer4."}

    def __init__(
        self,
        *,
        backbone: ResNet,
        anchor_sizes: Sequence[PositiveInt] = ANCHORS,
        frozen_stages: Stages = 2,
        proposals: Proposals,
        regions: Regions,
        num_classes: int = 20,
    ) -> None:
        if isinstance(backbone.maxpool, nn.Identity) or backbone.dilation > 1:
            raise UserError(
                "model.net.backbone: expected stem=imagenet and output_stride=32, where layer3 has a stride of 16"
            )
        freeze_batch_norm(backbone)
        freeze_stages(backbone, frozen_stages)
        head = StageHead(cast(nn.Sequential, backbone.layer4))
        backbone.stages = backbone.stages[:-1]
        del backbone.layer4, backbone.fc
        super().__init__(
            backbone=SingleMap(backbone, backbone.num_features // 2),
            anchors=AnchorGenerator((tuple(anchor_sizes),), (RATIOS,)),
            box_pool=self.region_pool(),
            box_head=head,
            box_features=backbone.num_features,
            proposals=proposals,
            regions=regions,
            in_channels=backbone.in_channels,
            num_classes=num_classes,
        )

    def region_pool(self) -> nn.Module:
        """Create RoI pooling to 14x14."""
        return OnSingleMap(RoIPool(14, 1 / 16))


class FasterRCNNFPN(Detector):
    """Faster R-CNN on a feature pyramid of a ResNet (Lin et al., "Feature Pyramid Networks", CVPR 2017).

    With torchvision's ResNet-50 and the default numbers of channels, parameter names and detections are those of
    torchvision's ``fasterrcnn_resnet50_fpn``.

    Args:
        backbone: A ResNet.
        channels: Number of channels of each level of the pyramid (section 3).
        head_width: Number of outputs of both linear layers of the head (section 4.2).
        anchor_sizes: Side of the square anchors of each level, in pixels: one for each stage and one for the additional
            top level (section 4.1).
        batch_norm: ``frozen`` keeps statistics, scale and shift of the trained classifier; ``trained`` trains them.
        batch_norm_epsilon: Epsilon of the backbone's batch norm; 0 for torchvision's detectors trained on COCO.
        frozen_stages: Number of stages that are not trained. The stem is the first.
        proposals: See ``Proposals``.
        regions: See ``Regions``.
        num_classes: Number of classes without the background.

    Raises:
        UserError: The number of anchor sizes is not the number of levels; the epsilon is 0 and batch norm is trained.
    """

    torchvision_detector: ClassVar[str] = "fasterrcnn_resnet50_fpn"
    backbone: "Pyramid"

    def __init__(
        self,
        *,
        backbone: ResidualBackbone,
        channels: PositiveInt = 256,
        head_width: PositiveInt = 1024,
        anchor_sizes: Sequence[PositiveInt] = (32, 64, 128, 256, 512),
        batch_norm: Literal["trained", "frozen"] = "trained",
        batch_norm_epsilon: NonNegativeFloat = 1e-5,
        frozen_stages: Stages = 0,
        proposals: Proposals,
        regions: Regions,
        num_classes: int = 90,
    ) -> None:
        if len(anchor_sizes) != len(backbone.stages) + 1:
            raise UserError(
                f"model.net.anchor_sizes={list(anchor_sizes)}: expected {len(backbone.stages) + 1} sizes, one for each "
                f"stage of {type(backbone).__name__} and one for the level on top"
            )
        self.levels = [str(level) for level in range(len(backbone.stages))]
        if batch_norm == "frozen":
            freeze_batch_norm(backbone)
        elif not batch_norm_epsilon:
            raise UserError("model.net.batch_norm_epsilon=0: expected model.net.batch_norm=frozen, or above 0")
        for layer in backbone.modules():
            if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
                layer.eps = batch_norm_epsilon
        freeze_stages(backbone, frozen_stages)
        super().__init__(
            backbone=Pyramid(backbone, channels),
            anchors=AnchorGenerator(tuple((size,) for size in anchor_sizes), (RATIOS,) * len(anchor_sizes)),
            box_pool=self.region_pool(7),
            box_head=TwoMLPHead(channels * 7**2, head_width),
            box_features=head_width,
            proposals=proposals,
            regions=regions,
            in_channels=backbone.in_channels,
            num_classes=num_classes,
        )

    @property
    def torchvision_name(self) -> str | None:
        """``fasterrcnn_resnet50_fpn``, which has weights for 90 classes of COCO; None for other backbones."""
        return None if self.backbone.body.torchvision_name != "resnet50" else self.torchvision_detector

    def region_pool(self, side: int) -> nn.Module:
        """Create RoIAlign to side x side, from the level that fits the size of a region (section 4.2)."""
        pool: nn.Module = MultiScaleRoIAlign(self.levels, side, sampling_ratio=2)
        return pool


class Pyramid(nn.Module):
    """A feature pyramid: a map for each stage of a ResNet, and an additional map of half the size of the last.

    Args:
        body: The ResNet. Its classifier is removed.
        out_channels: Number of channels of each map.
    """

    def __init__(self, body: ResidualBackbone, out_channels: int) -> None:
        super().__init__()
        del body.fc
        self.body = body
        self.out_channels = out_channels
        last = body.num_features
        widths = [last // 2**step for step in reversed(range(len(body.stages)))]
        self.fpn = FeaturePyramidNetwork(widths, out_channels, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (N, C, H, W) to maps (N, out_channels, h, w): ``0``, the finest, ``1``, … ``pool``."""
        maps = self.body.feature_maps(x)
        pyramid: dict[str, Tensor] = self.fpn({str(level): maps[name] for level, name in enumerate(self.body.stages)})
        return pyramid


class StageHead(nn.Module):
    """The last stage of a ResNet as a head.

    Args:
        layer4: The stage.
    """

    def __init__(self, layer4: nn.Sequential) -> None:
        super().__init__()
        self.layer4 = layer4

    def feature_map(self, x: Tensor) -> Tensor:
        """Map regions (n, C, 14, 14) to (n, 2 C, 7, 7)."""
        out: Tensor = self.layer4(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Map regions (n, C, 14, 14) to features (n, 2 C)."""
        return self.feature_map(x).mean(dim=(2, 3))
