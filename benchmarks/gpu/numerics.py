"""Compare networks on the GPU with the same networks in float64 on the CPU."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu.cases import build_batch, build_task, head_outputs, moved, relative_error
from benchmarks.gpu.rows import Precision, Row, Setting
from convatlas.tasks.base import Task

NETWORKS = {
    "alexnet": 64,
    "vgg11_lrn": 64,
    "vgg16": 64,
    "vgg16_bn": 64,
    "googlenet": 64,
    "googlenet_bn": 64,
    "plain18": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnet50_v15": 64,
    "plain20_cifar": 32,
    "resnet20_cifar": 32,
    "cuda_convnet_cifar": 32,
    "fcn8s_vgg16": 96,
    "fcn_resnet50": 96,
    "deeplabv1_vgg16": 97,
    "deeplabv2_vgg16": 97,
    "deeplabv3_resnet50": 97,
    "deeplabv3plus_resnet50": 97,
    "unet": 188,
    "unet_same": 64,
    "faster_rcnn_vgg16": 96,
    "faster_rcnn_resnet50_c4": 96,
    "faster_rcnn_resnet50_fpn": 96,
    "mask_rcnn_resnet50_c4": 96,
    "mask_rcnn_resnet50_fpn": 96,
}
"""Networks, of each architecture those with code of their own, and the size of their images in pixels."""
REDUCED = {"resnet20_cifar": 32, "unet_same": 32, "mask_rcnn_resnet18_fpn": 32}
BOUNDS: dict[Precision, float] = {"float32": 1e-4, "tf32": 5e-2, "bf16": 5e-2}
"""Relative error of the logits."""
USUAL = 3.0
"""Relative error of the gradients over the CPU's own in the same precision: batch norm of few values enlarges it."""
CPU = torch.device("cpu")
EVERY_REGION = [
    "model.net.proposals.nms_iou=1.0",
    "model.net.proposals.before_nms=[100000,100000]",
    "model.net.proposals.after_nms=[100000,100000]",
    "model.net.proposals.anchors_per_image=100000",
    "model.net.regions.regions_per_image=100000",
]
"""A detector's losses with all regions: which of them it draws at random depends on the device."""
SMALL = [
    "model.net.channels=32",
    "model.net.head_width=64",
    "model.net.mask_channels=16",
    "model.net.anchor_sizes=[12,18,26,36,48]",
]
"""A detector that a CPU computes in seconds."""


def numerics(setting: Setting) -> Iterator[Row]:
    """Compare logits in evaluation and gradients of a training step, in each precision, with float64 on the CPU."""
    for name, image_size in (REDUCED if setting.reduced else NETWORKS).items():
        overrides = EVERY_REGION * ("rcnn" in name) + SMALL * (name == "mask_rcnn_resnet18_fpn")
        task = build_task(name, image_size, overrides)
        for layer in task.net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0  # what is dropped depends on the device
        batch = build_batch(task.task_type, 2 if setting.reduced else 4, image_size)
        logits, gradients = _outcome(task, batch, CPU, torch.float64)
        for precision, bound in BOUNDS.items():
            if precision == "tf32" and setting.device.type == "cpu":
                continue
            with setting.precision(precision):
                found, found_gradients = _outcome(task, batch, setting.device)
            row = Row.within(f"{name}, {precision}: logits", bound, error=relative_error(found, logits))
            if row.verdict == "wrong" and precision != "float32":
                row = _by_layer(f"{name}, {precision}: each layer alone", task, batch, setting, precision)
            yield row
            error = relative_error(found_gradients, gradients)
            check = f"{name}, {precision}: gradients"
            if precision == "tf32":
                yield Row(check, "measured", {"error": error}, "a CPU has no TF32 to compare with")
                continue
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                usual = relative_error(_outcome(task, batch, CPU)[1], gradients)
            if (limit := max(BOUNDS["float32"], USUAL * usual)) < 1:
                yield Row.within(check, limit, error=error)
            else:  # no wrong gradient would exceed it
                yield Row(check, "measured", {"error": error}, f"the CPU's own error is {usual:.2g}")


def _outcome(task: Task, batch: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Compute with a copy of a network on a device: its logits in evaluation, its gradients in training."""
    task, batch = copy.deepcopy(task).to(device, dtype), moved(batch, device, dtype)
    task.net.eval()
    with torch.no_grad():
        found = head_outputs(task, batch)
    task.net.train()
    task.loss(task.output(batch), batch).backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in task.net.parameters() if weight.grad is not None]
    return found, torch.cat([gradient.double().cpu().flatten() for gradient in gradients])


def _by_layer(check: str, task: Task, batch: Any, setting: Setting, precision: Precision) -> Row:
    """Give each layer the input that it has in float64, so that errors do not add up over the layers."""
    reference = copy.deepcopy(task).double().eval()
    candidate = copy.deepcopy(task.net).to(setting.device).eval()
    errors: dict[str, float] = {}

    def compare(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            with setting.precision(precision):
                found = candidate.get_submodule(name)(inputs[0].to(setting.device, torch.float32))
            errors[name] = max(errors.get(name, 0.0), relative_error(found.double().cpu(), output))

    for name, layer in reference.net.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _, inputs, output, name=name: compare(name, inputs, output))
    with torch.no_grad():
        head_outputs(reference, moved(batch, CPU, torch.float64))
    worst = max(errors, key=lambda name: errors[name])
    row = Row.within(check, BOUNDS[precision], worst_layer=errors[worst])
    return Row(row.check, row.verdict, {**row.values, "layers": len(errors)}, f"{row.note}; the worst is {worst}")
