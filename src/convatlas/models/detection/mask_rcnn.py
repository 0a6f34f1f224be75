"""Mask R-CNN (He, Gkioxari, Dollár and Girshick, ICCV 2017) on ResNet's fourth stage and on feature pyramids."""

from collections.abc import Sequence
from typing import Any

from pydantic import PositiveInt
from torch import nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import RoIAlign

from convatlas.models.detection.detector import OnSingleMap
from convatlas.models.detection.faster_rcnn import ANCHORS, FasterRCNNC4, FasterRCNNFPN


class MaskRCNNC4(FasterRCNNC4):
    """Masks of 14x14 from ``layer4``, which both heads share (figure 4, left); regions by RoIAlign (section 3).

    Args:
        mask_channels: Channels of the mask head's upsampled map.
        anchor_sizes: Side of the square anchors, in pixels.
        num_classes: Classes that it tells apart; the background is none.
        common: Those of ``FasterRCNNC4``.
    """

    def __init__(
        self,
        *,
        mask_channels: PositiveInt = 256,
        anchor_sizes: Sequence[PositiveInt] = (64, *ANCHORS),
        num_classes: int = 80,
        **common: Any,
    ) -> None:
        super().__init__(anchor_sizes=anchor_sizes, num_classes=num_classes, **common)
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
        common: Those of ``FasterRCNNFPN``.
    """

    torchvision_detector = "maskrcnn_resnet50_fpn"

    def __init__(self, *, mask_channels: PositiveInt = 256, **common: Any) -> None:
        super().__init__(**common)
        heads = self.roi_heads
        heads.mask_roi_pool = self.region_pool(14)
        heads.mask_head = MaskRCNNHeads(self.backbone.out_channels, (mask_channels,) * 4, 1)
        heads.mask_predictor = MaskRCNNPredictor(mask_channels, mask_channels, self.num_classes + 1)
