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
    """Mask R-CNN on a ResNet (figure 4, left).

    Regions come from RoIAlign (section 3). Both heads share ``layer4``, from which masks of 14x14 are predicted.

    Args:
        mask_channels: Number of channels of the upsampled map in the mask head.
        anchor_sizes: Sides of the square anchors, in pixels.
        num_classes: Number of classes without the background.
        common: The arguments of ``FasterRCNNC4``.
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
        heads.mask_head = heads.box_head.feature_map  # a function, so that the stage is saved only once
        heads.mask_predictor = MaskRCNNPredictor(self.box_features, mask_channels, num_classes + 1)

    def region_pool(self) -> nn.Module:
        """Create RoIAlign to 14x14."""
        return OnSingleMap(RoIAlign(14, 1 / 16, sampling_ratio=2))


class MaskRCNNFPN(FasterRCNNFPN):
    """Mask R-CNN on a feature pyramid (figure 4, right).

    The mask head has four convolutions on regions of 14x14 and an upsampling by two to masks of 28x28.

    With torchvision's ResNet-50, parameter names and detections are those of its ``maskrcnn_resnet50_fpn``.

    Args:
        mask_channels: Number of channels of the convolutions in the mask head.
        common: The arguments of ``FasterRCNNFPN``.
    """

    torchvision_detector = "maskrcnn_resnet50_fpn"

    def __init__(self, *, mask_channels: PositiveInt = 256, **common: Any) -> None:
        super().__init__(**common)
        heads = self.roi_heads
        heads.mask_roi_pool = self.region_pool(14)
        heads.mask_head = MaskRCNNHeads(self.backbone.out_channels, (mask_channels,) * 4, 1)
        heads.mask_predictor = MaskRCNNPredictor(mask_channels, mask_channels, self.num_classes + 1)
