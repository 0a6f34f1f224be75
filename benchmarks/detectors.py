"""Step time of our detectors on feature pyramids relative to torchvision's, with the same weights and proposals.

    python -m benchmarks.detectors [--pairs 7] [--side 128] [--batch 2] [--threads 1]

A step is forward and backward in training mode, on a GPU if there is one; torchvision's runs without its resizing and
normalisation, which our data module does. The two alternate in one process, each pair in the order ours, torchvision's,
torchvision's, ours. On a CPU the time is the process's own, so that others on the machine do not count. Prints every
pair's ratio and the median of each network; target: no median above 1.03.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from benchmarks.paired import described, paired_ratios, step_time
from convatlas.models.classification.resnet import ResNet
from convatlas.models.detection.detector import Detector, Proposals, Regions, Target
from convatlas.models.detection.faster_rcnn import FasterRCNNFPN
from convatlas.models.detection.mask_rcnn import MaskRCNNFPN

OURS: dict[str, type[FasterRCNNFPN]] = {
    "fasterrcnn_resnet50_fpn": FasterRCNNFPN,
    "maskrcnn_resnet50_fpn": MaskRCNNFPN,
}
TARGET = 1.03
Step = Callable[[], dict[str, Tensor]]


def networks(name: str, device: torch.device) -> tuple[Detector, Any]:
    """Ours and torchvision's, with the same weights, in training mode."""
    theirs: nn.Module = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    ours = OURS[name](backbone=ResNet(depth=50, stride_in="3x3"), proposals=Proposals(), regions=Regions())
    ours.load_state_dict(theirs.state_dict())
    return ours.to(device).train(), theirs.to(device).train()


def targets(count: int, side: int, device: torch.device) -> list[Target]:
    """Four squares with masks in each image."""
    found: list[Target] = []
    for _ in range(count):
        corners = torch.tensor([[1, 1], [1, 5], [5, 1], [5, 5]], device=device) * side / 10
        masks = torch.zeros(4, side, side, dtype=torch.uint8, device=device)
        for mask, (x, y) in zip(masks, corners.int().tolist(), strict=True):
            mask[y : y + side // 3, x : x + side // 3] = 1
        boxes = torch.cat([corners, corners + side // 3], dim=1)
        found.append(Target(boxes=boxes, labels=torch.arange(4, device=device), masks=masks))
    return found


def their_losses(net: Any, images: Tensor, sizes: list[tuple[int, int]], what: list[Target]) -> dict[str, Tensor]:
    """What torchvision's detector does after its transform."""
    shifted = [{**target, "labels": target["labels"] + 1} for target in what]
    features = net.backbone(images)
    proposals, losses = net.rpn(ImageList(images, sizes), features, shifted)
    _, head_losses = net.roi_heads(features, proposals, sizes, shifted)
    return {**head_losses, **losses}


def ratios(name: str, pairs: int, batch: int, side: int, device: torch.device) -> list[float]:
    """Our time over torchvision's, of each pair."""
    ours, theirs = networks(name, device)
    images, sizes = torch.randn(batch, 3, side, side, device=device), [(side, side)] * batch
    what = targets(batch, side, device)

    def mine() -> Tensor:
        return torch.stack(list(ours(images, sizes, what).values())).sum()

    def other() -> Tensor:
        return torch.stack(list(their_losses(theirs, images, sizes, what).values())).sum()

    return paired_ratios(lambda: step_time(ours, mine, device), lambda: step_time(theirs, other, device), pairs)


def main() -> None:
    """Measure one network after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--side", type=int, default=128, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=2, help="images a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(described(device, arguments.threads, arguments.batch, arguments.side, arguments.pairs))
    medians = {}
    for name in OURS:
        found = ratios(name, arguments.pairs, arguments.batch, arguments.side, device)
        medians[name] = statistics.median(found)
        print(f"{name:<24} median {medians[name]:.3f}  pairs {' '.join(f'{r:.3f}' for r in found)}", flush=True)
    worst = max(medians, key=lambda name: medians[name])
    verdict = "within" if medians[worst] <= TARGET else "above"
    print(f"worst median ours/torchvision: {medians[worst]:.3f} ({worst}), {verdict} {TARGET}")


if __name__ == "__main__":
    main()
