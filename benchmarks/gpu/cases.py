"""A network of each kind with its task, and a batch that it can be trained on."""

from collections.abc import Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from benchmarks.architectures import outputs
from benchmarks.detectors import targets
from convatlas.config.composition import compose
from convatlas.data.batch import IGNORE_INDEX, Batch, ObjectBatch, SegmentationBatch
from convatlas.models.detection.detector import Detector
from convatlas.tasks.base import Task

AnyBatch = Batch | SegmentationBatch | ObjectBatch
CLASSES = 5


def build_task(model: str, image_size: int, overrides: Sequence[str] = ()) -> Task:
    """The task of a network with random weights, for RGB images of ``CLASSES`` classes."""
    settings = [f"data.num_classes={CLASSES}", "data.in_channels=3", f"data.image_size={image_size}"]
    config = compose("train", [f"model={model}", *settings, *overrides])
    torch.manual_seed(0)
    task: Task = instantiate(
        config.model, optimizer=instantiate(config.optimizer), schedule=instantiate(config.schedule)
    )
    return task


def build_batch(problem: str, images: int, image_size: int) -> AnyBatch:
    """Random images, normalised, with labels for a problem; the same at every call."""
    generator = torch.Generator().manual_seed(1)
    shown = torch.randn(images, 3, image_size, image_size, generator=generator)
    numbers = torch.arange(images)
    if problem == "classification":
        return Batch(shown, numbers % CLASSES, numbers)
    if problem == "segmentation":
        labels = torch.randint(CLASSES, (images, image_size, image_size), generator=generator)
        labels[:, :2] = IGNORE_INDEX
        return SegmentationBatch(shown, labels, numbers)
    sizes = [(image_size, image_size)] * images
    found = targets(images, image_size, torch.device("cpu"))
    masks = [target["masks"] for target in found]
    boxes, classes = [target["boxes"] for target in found], [target["labels"] for target in found]
    return ObjectBatch(shown, sizes, sizes, boxes, classes, masks, numbers)


def moved(batch: AnyBatch, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """A batch on a device, its floating-point tensors in a dtype."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device, dtype if value.is_floating_point() else None)
        return [move(item) for item in value] if isinstance(value, list) else value

    return type(batch)(*map(move, batch))


def head_outputs(task: Task, batch: Any) -> Tensor:
    """All that the heads of a network say of a batch, in one row, (L,) float64 on the CPU.

    A detector is asked about the objects' own boxes, because which boxes it proposes is no continuous function.
    """
    net = task.net
    if isinstance(net, Detector):
        features = net.backbone(batch.images)
        objectness, offsets = net.rpn.head(list(features.values()))
        heads = net.roi_heads
        scores, boxes = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, batch.boxes, batch.sizes)))
        found = [*objectness, *offsets, scores, boxes]
        if net.has_masks:
            pool = heads.mask_roi_pool or heads.box_roi_pool
            found.append(heads.mask_predictor(heads.mask_head(pool(features, batch.boxes, batch.sizes))))
    else:
        found = outputs(net(batch.images))
    return torch.cat([part.detach().double().cpu().flatten() for part in found])


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected."""
    return float((found - expected).norm() / expected.norm())
