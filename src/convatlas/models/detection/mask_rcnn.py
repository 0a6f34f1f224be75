"""Mask R-CNN (He, Gkioxari, Dollár and Girshick, ICCV 2017) on ResNet's fourth stage and on feature pyramids."""

from collections.abc import Sequence
from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt
from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import RoIAlign

from convatlas.models.classification.resnet import ResNet
from convatlas.models.detection.detector import OnSingleMap, Proposals, Regions, ResidualBackbone
from convatlas.models.detection.faster_rcnn import ANCHORS, FasterRCNNC4, FasterRCNNFPN, Stages


class MaskRCNNC4(FasterRCNNC4):
    """Masks of 14x14 from ``layer4``, which both heads share (figure 4, left); regions by RoIAlign (section 3).

    Args:
        mask_channels: Channels of the mask head's upsampled map.
        backbone: This and what follows are as in ``FasterRCNNC4``.
        anchor_sizes: Likewise.
        frozen_stages: Likewise.
        proposals: Likewise.
        regions: Likewise.
        num_classes: Likewise.
    """

    def __init__(
        self,
        *,
        mask_channels: PositiveInt = 256,
        backbone: ResNet,
        anchor_sizes: Sequence[PositiveInt] = (64, *ANCHORS),
        frozen_stages: Stages = 2,
        proposals: Proposals,
        regions: Regions,
        num_classes: int = 80,
    ) -> None:
        super().__init__(
            backbone=backbone,
            anchor_sizes=anchor_sizes,
            frozen_stages=frozen_stages,
            proposals=proposals,
            regions=regions,
            num_classes=num_classes,
        )
        heads = self.roi_heads
        heads.mask_roi_pool = self.region_pool()
        heads.mask_head = heads.box_head.feature_map  # a function: the stage is the box head's, and saved once
        heads.mask_predictor = MaskRCNNPredictor(self.box_features, mask_channels, num_classes + 1)

    def region_pool(self) -> nn.Module:
        """RoIAlign to 14x14."""
        return OnSingleMap(RoIAlign(14, 1 / 16, sampling_ratio=2))


class MaskRCNNFPN(FasterRCNNFPN):
    """Masks of 28x28 from four convolutions and an upsampling by two on regions of 14x14 (figure 4, right).

    On torchvision's ResNet-50, parameter names and detections are those of its ``maskrcnn_resnet50_fpn``.

    Args:
        mask_channels: Channels of the mask head's convolutions.
        backbone: This and what follows are as in ``FasterRCNNFPN``.
        channels: Likewise.
        head_width: Likewise.
        anchor_sizes: Likewise.
        batch_norm: Likewise.
        batch_norm_epsilon: Likewise.
        frozen_stages: Likewise.
        proposals: Likewise.
        regions: Likewise.
        num_classes: Likewise.
    """

    torchvision_detector = "maskrcnn_resnet50_fpn"

    def __init__(
        self,
        *,
        mask_channels: PositiveInt = 256,
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
        super().__init__(
            backbone=backbone,
            channels=channels,
            head_width=head_width,
            anchor_sizes=anchor_sizes,
            batch_norm=batch_norm,
            batch_norm_epsilon=batch_norm_epsilon,
            frozen_stages=frozen_stages,
            proposals=proposals,
            regions=regions,
            num_classes=num_classes,
        )
        heads = self.roi_heads
        heads.mask_roi_pool = self.region_pool(14)
        heads.mask_head = MaskRCNNHeads(channels, (mask_channels,) * 4, 1)
        heads.mask_predictor = MaskRCNNPredictor(mask_channels, mask_channels, num_classes + 1)
