"""Step time of our networks relative to torchvision's of the same name, with the same weights.

    python -m benchmarks.architectures [--pairs 7] [--side 64] [--batch 8] [--models resnet18,vgg16] [--threads 1]

A step is forward and backward in training mode, on a GPU if there is one; on a CPU its time is the process's own,
which other processes leave alone. The two alternate in one process, each pair
in the order ours, torchvision's, torchvision's, ours, so that a machine that slows down or speeds up meanwhile does so
for both. Prints every pair's ratio and the median of each network; target: no median above 1.02.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.paired import described, paired_ratios, step_time
from convatlas.models.classification.alexnet import AlexNetTorchvision
from convatlas.models.classification.googlenet import GoogLeNetTorchvision
from convatlas.models.classification.resnet import ResNet
from convatlas.models.classification.vgg import VGG
from convatlas.models.segmentation.deeplab import DeepLabV3
from convatlas.models.segmentation.fcn import FCN

OURS: dict[str, Callable[[], nn.Module]] = {
    "alexnet": AlexNetTorchvision,
    "googlenet": GoogLeNetTorchvision,
    "vgg11": lambda: VGG(configuration="A"),
    "vgg13": lambda: VGG(configuration="B"),
    "vgg16": lambda: VGG(configuration="D"),
    "vgg19": lambda: VGG(configuration="E"),
    "vgg11_bn": lambda: VGG(configuration="A", batch_norm=True),
    "vgg13_bn": lambda: VGG(configuration="B", batch_norm=True),
    "vgg16_bn": lambda: VGG(configuration="D", batch_norm=True),
    "vgg19_bn": lambda: VGG(configuration="E", batch_norm=True),
    "resnet18": lambda: ResNet(depth=18),
    "resnet34": lambda: ResNet(depth=34),
    "resnet50": lambda: ResNet(depth=50, stride_in="3x3"),
    "resnet101": lambda: ResNet(depth=101, stride_in="3x3"),
    "resnet152": lambda: ResNet(depth=152, stride_in="3x3"),
    "fcn_resnet50": lambda: FCN(backbone=ResNet(depth=50, stride_in="3x3", output_stride=8)),
    "deeplabv3_resnet50": lambda: DeepLabV3(
        backbone=ResNet(depth=50, stride_in="3x3", output_stride=8), rates=(12, 24, 36), auxiliary=True
    ),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "fcn_resnet50": {"weights_backbone": None, "aux_loss": True},
    "deeplabv3_resnet50": {"weights_backbone": None, "aux_loss": True},
}
"""What torchvision is asked for besides the name."""
TARGET = 1.02


def networks(name: str, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """Ours and torchvision's, with the same weights, in training mode."""
    theirs: nn.Module = torchvision.models.get_model(name, **ARGUMENTS.get(name, {}))
    ours = OURS[name]()
    ours.load_state_dict(theirs.state_dict())
    return ours.to(device).train(), theirs.to(device).train()


def outputs(output: Any) -> list[Tensor]:
    """The logits of all heads, however they are nested."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [logits for part in parts for logits in outputs(part)]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (N, K) or (N, K, H, W) with labels (N,), which hold for every pixel."""
    every = labels.view(-1, *[1] * (logits.dim() - 2)).expand(len(labels), *logits.shape[2:])
    return F.cross_entropy(logits, every)


def ratios(name: str, pairs: int, images: Tensor, labels: Tensor) -> list[float]:
    """Our time over torchvision's, of each pair."""

    def step(net: nn.Module) -> float:
        def total() -> Tensor:
            return torch.stack([loss(logits, labels) for logits in outputs(net(images))]).sum()

        return step_time(net, total, images.device)

    ours, theirs = networks(name, images.device)
    return paired_ratios(lambda: step(ours), lambda: step(theirs), pairs)


def main() -> None:
    """Measure the chosen networks one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--side", type=int, default=64, help="of the images, in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--models", default=",".join(OURS), help="torchvision's names, by commas")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    arguments = parser.parse_args()
    names = arguments.models.split(",")
    if unknown := [name for name in names if name not in OURS]:
        parser.error(f"--models: no {', '.join(unknown)}; choose from {', '.join(OURS)}")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(described(device, arguments.threads, arguments.batch, arguments.side, arguments.pairs))
    images = torch.randn(arguments.batch, 3, arguments.side, arguments.side, device=device)
    labels = torch.arange(arguments.batch, device=device)
    medians = {}
    for name in names:
        found = ratios(name, arguments.pairs, images, labels)
        medians[name] = statistics.median(found)
        print(f"{name:<18} median {medians[name]:.3f}  pairs {' '.join(f'{r:.3f}' for r in found)}", flush=True)
    worst = max(medians, key=lambda name: medians[name])
    verdict = "within" if medians[worst] <= TARGET else "above"
    print(f"worst median ours/torchvision: {medians[worst]:.3f} ({worst}), {verdict} {TARGET}")


if __name__ == "__main__":
    main()
