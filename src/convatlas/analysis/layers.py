"""Analyse a network layer by layer: shapes, parameters, multiply-adds and receptive fields.

The network is traced and run on the meta device. Nothing is computed, so the largest network takes a second.
"""

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from convatlas.models.base import Architecture
from convatlas.models.outputs import ClassifierOutput

KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "convolution",
    nn.ConvTranspose2d: "transposed convolution",
    nn.MaxPool2d: "max pool",
    nn.AvgPool2d: "average pool",
    nn.AdaptiveAvgPool2d: "average pool",
    nn.BatchNorm2d: "batch norm",
    nn.LocalResponseNorm: "local response norm",
    nn.Linear: "linear",
}
FUNCTIONS = {
    F.adaptive_avg_pool2d: "average pool",
    F.interpolate: "upsample",
    torch.cat: "concatenate",
    operator.add: "add",
    operator.iadd: "add",
}


@dataclass(frozen=True)
class Layer:
    """A layer of a network, for one image.

    Attributes:
        name: Its path in the network; for a function, the path of the module that calls it and its kind.
        kind: ``convolution``, ``transposed convolution``, ``max pool``, ``average pool``, ``batch norm``,
            ``local response norm``, ``linear``, ``upsample``, ``add`` or ``concatenate``.
        output_shape: (C, H, W), or (features,).
        kernel: Side of the kernel, in positions of its input; None if it reads a single position.
        stride: Step in positions of its input (of its output, for a transposed convolution); None if there is none.
        dilation: Distance between the positions that the kernel reads.
        groups: Groups of a convolution.
        parameters: Weights and biases.
        multiply_adds: Multiply-adds of a convolution or linear layer, which papers call FLOPs; 0 for other layers.
        receptive_field: Side of the image region that a position of the output depends on, in pixels.
        jump: Distance of neighbouring positions of the output, in pixels of the image.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    kernel: int | None
    stride: int | None
    dilation: int
    groups: int
    parameters: int
    multiply_adds: int
    receptive_field: int
    jump: int


@dataclass(frozen=True)
class Analysis:
    """The layers of a network and their sums.

    Attributes:
        layers: The layers of inference, in order of execution.
        auxiliary: The layers of auxiliary heads, used only in training, in order of execution.
    """

    layers: tuple[Layer, ...]
    auxiliary: tuple[Layer, ...]

    @property
    def parameters(self) -> int:
        """Weights and biases at inference."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image at inference."""
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def auxiliary_parameters(self) -> int:
        """Additional weights and biases of training."""
        return sum(layer.parameters for layer in self.auxiliary)

    @property
    def auxiliary_multiply_adds(self) -> int:
        """Additional multiply-adds of the forward pass of training, for one image."""
        return sum(layer.multiply_adds for layer in self.auxiliary)

    @property
    def receptive_field(self) -> int:
        """Receptive field in pixels of the last map before the global average pool, or of the last layer."""
        before = list(_before_global_pool(self.layers))
        return before[-1].receptive_field


def analyse(net: Architecture, image_size: int) -> Analysis:
    """Analyse the layers of a network.

    Receptive fields follow r += (k - 1) d j and j *= s from layer to layer (Araujo et al., "Computing Receptive
    Fields", 2019); a linear layer that reads a map of h x h is a kernel of h; where paths meet, the largest counts.
    A transposed convolution of stride s has ceil(k / s) positions in each output, bilinear upsampling two.

    Args:
        net: The network, on any device; it is not changed.
        image_size: Height and width of the image, in pixels.
    """
    on_meta = copy.deepcopy(net).to("meta").train()  # traced with its auxiliary heads
    graph = _Tracer().trace(on_meta)
    recorder = _Recorder(fx.GraphModule(on_meta, graph).eval())  # BatchNorm takes a single value, too
    recorder.run(torch.empty(1, net.in_channels, image_size, image_size, device="meta"))
    output = graph.output_node().all_input_nodes[0]
    logits = output.all_input_nodes[0] if output.target is ClassifierOutput else output
    at_inference = _leading_to(logits)
    return Analysis(
        tuple(layer for node, layer in recorder.layers.items() if node in at_inference),
        tuple(layer for node, layer in recorder.layers.items() if node not in at_inference),
    )


def _leading_to(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _before_global_pool(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    for layer in layers:
        if layer.kind == "average pool" and layer.output_shape[1:] == (1, 1):
            return
        yield layer


class _Tracer(fx.Tracer):
    """Traces a network without entering the modules of ``KINDS`` and their subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, tuple(KINDS)) or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class _Grid:
    receptive_field: int = 1
    jump: int = 1
    side: int = 1
    """Positions along a side, also after flattening."""


class _Recorder(fx.Interpreter):
    """Runs a traced network and records every layer."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.layers: dict[fx.Node, Layer] = {}
        self.grids: dict[fx.Node, _Grid] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one operation on the meta device, and record it if it is a layer."""
        out = super().run_node(n)
        before = max((self.grids[node] for node in n.all_input_nodes), key=lambda g: g.receptive_field, default=_Grid())
        module = self.fetch_attr(str(n.target)) if n.op == "call_module" else None
        kind = FUNCTIONS.get(n.target) if module is None else _kind(module)  # type: ignore[arg-type]
        if not isinstance(out, Tensor):  # arithmetic on sizes
            kind = None
        kernel, stride, dilation = 1, 1, 1
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.MaxPool2d):
            kernel, stride, dilation = (_side(value) for value in (module.kernel_size, module.stride, module.dilation))
        elif isinstance(module, nn.AvgPool2d):
            kernel, stride = _side(module.kernel_size), _side(module.stride)
        elif kind == "average pool" and out.shape[-1] < before.side:  # otherwise it reads single positions
            stride = before.side // out.shape[-1]
            kernel = before.side - (out.shape[-1] - 1) * stride
        elif kind == "linear":
            kernel = before.side
        enlarging = kind in ("transposed convolution", "upsample")
        if kind == "upsample":
            kernel, stride = 2, max(1, round(out.shape[-1] / before.side))
        seen = -(-kernel // stride) if kind == "transposed convolution" else kernel
        self.grids[n] = after = _Grid(
            before.receptive_field + (seen - 1) * dilation * before.jump,
            max(1, before.jump // stride) if enlarging else before.jump * stride,
            1 if kind == "linear" else _positions(before, out, kind),
        )
        if kind is not None and not (kind == "average pool" and kernel == 1):
            self.layers[n] = Layer(
                name=_name(n, kind),
                kind=kind,
                output_shape=tuple(out.shape[1:]),
                kernel=kernel if kernel > 1 or kind == "convolution" else None,
                stride=stride if enlarging or kind in ("convolution", "max pool", "average pool") else None,
                dilation=dilation,
                groups=module.groups if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) else 1,
                parameters=sum(p.numel() for p in module.parameters()) if module is not None else 0,
                multiply_adds=_multiply_adds(module, before, out),
                receptive_field=after.receptive_field,
                jump=after.jump,
            )
        return out


def _positions(before: _Grid, out: Any, kind: str | None) -> int:
    if not isinstance(out, Tensor) or out.dim() != 4:
        return before.side
    side: int = out.shape[-1]
    return min(before.side, side) if kind == "average pool" else side  # repeated positions see nothing new


def _kind(module: nn.Module) -> str | None:
    return next((kind for layer, kind in KINDS.items() if isinstance(module, layer)), None)


def _name(node: fx.Node, kind: str) -> str:
    if node.op == "call_module":
        return str(node.target)
    inside = list(node.meta["nn_module_stack"])[-1] if node.meta.get("nn_module_stack") else ""
    return f"{inside}.{kind}" if inside else kind.replace(" ", "_")


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _multiply_adds(module: nn.Module | None, before: _Grid, out: Tensor) -> int:
    if isinstance(module, nn.ConvTranspose2d):
        return before.side**2 * module.weight.numel()
    if isinstance(module, nn.Conv2d):
        return out[0].numel() * module.weight[0].numel()
    return module.weight.numel() if isinstance(module, nn.Linear) else 0
