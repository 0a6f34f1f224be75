"""Pictures of a network: its layers with their receptive fields, and the filters of its first convolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid, save_image

from convatlas.analysis.layers import Analysis, Layer
from convatlas.models.base import Architecture

TEMPLATES = Environment(
    loader=PackageLoader("convatlas.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
TILE = 44
"""Approximate side of a filter in the picture, in pixels."""


@dataclass(frozen=True)
class GraphRow:
    """One row of the picture: a layer, a block, or several identical ones in succession.

    Attributes:
        name: Name of the first, and of the last if there are several.
        label: The operation as papers write it: ``3×3, 64, /2``.
        output_shape: Output shape of the last.
        count: Number of identical layers or blocks.
        first_receptive_field: Receptive field of the first output, in pixels.
        receptive_field: Receptive field of the last output, in pixels.
        jump: Jump of the last output, in pixels.
    """

    name: str
    label: str
    output_shape: tuple[int, ...]
    count: int
    first_receptive_field: int
    receptive_field: int
    jump: int


def graph_rows(layers: Sequence[Layer]) -> list[GraphRow]:
    """Group layers into blocks, whose paths end in a sum or a concatenation. Batch norm is not shown."""
    blocks = {layer.name.rpartition(".")[0] for layer in layers if layer.kind in ("add", "concatenate")}
    shown = [layer for layer in layers if layer.kind != "batch norm"]
    units = [_unit(name, list(members)) for name, members in groupby(shown, key=lambda layer: _owner(layer, blocks))]
    rows = []
    for _, same in groupby(units, key=lambda unit: (unit.label, unit.output_shape)):
        run = list(same)
        name = run[0].name if len(run) == 1 else f"{run[0].name} … {run[-1].name}"
        last = run[-1]
        rows.append(
            GraphRow(
                name,
                last.label,
                last.output_shape,
                len(run),
                run[0].receptive_field,
                last.receptive_field,
                last.jump,
            )
        )
    return rows


def layer_text(layer: Layer) -> str:
    """A layer as papers write it: ``3×3, 64, /2``; ``max pool 3×3, /2``; ``linear, 1000``."""
    kernel = f"{layer.kernel}×{layer.kernel}"
    step = f", /{layer.stride}" if layer.stride and layer.stride > 1 else ""
    holes = f", dilation {layer.dilation}" if layer.dilation > 1 else ""
    if layer.kind == "convolution":
        groups = f", {layer.groups} groups" if layer.groups > 1 else ""
        return f"{kernel}, {layer.output_shape[0]}{step}{holes}{groups}"
    if layer.kind == "transposed convolution":
        return f"transposed {kernel}, {layer.output_shape[0]}, ×{layer.stride}"
    if layer.kind == "upsample":
        return f"upsample ×{layer.stride}"
    if layer.kind == "linear":
        return f"linear, {layer.output_shape[0]}"
    return f"{layer.kind} {kernel}{step}{holes}" if layer.kernel else layer.kind


def write_graph(name: str, analysis: Analysis, image_size: int, path: Path) -> None:
    """Write the picture of a network as a self-contained SVG.

    Args:
        name: Name of the network, for the title.
        analysis: Its layers.
        image_size: Height and width of the image, in pixels.
        path: The file.
    """
    rows = graph_rows(analysis.layers)
    values: dict[str, Any] = {
        "name": name,
        "analysis": analysis,
        "image_size": image_size,
        "rows": rows,
        "scale": 1.05 * max(image_size, *(row.receptive_field for row in rows)),
    }
    path.write_text(TEMPLATES.get_template("graph.svg.j2").render(values), encoding="utf-8")


def _owner(layer: Layer, blocks: set[str]) -> str:
    parents = [block for block in blocks if layer.name.startswith(f"{block}.")]
    return max(parents, key=len, default=layer.name.removesuffix(".conv"))


def _unit(name: str, layers: list[Layer]) -> GraphRow:
    last = layers[-1]
    if last.kind == "add":
        shortcut = [layer for layer in layers[:-1] if ".downsample" in layer.name]
        main = [layer for layer in layers[:-1] if layer not in shortcut]
        label = f"{_path(main)}  +  {_path(shortcut) or 'identity'}"
    elif last.kind == "concatenate":
        branches = groupby(layers[:-1], key=lambda layer: layer.name.removeprefix(f"{name}.").partition(".")[0])
        label = "  |  ".join(_path(list(branch)) for _, branch in branches)
    else:
        label = layer_text(last)
    return GraphRow(name, label, last.output_shape, 1, last.receptive_field, last.receptive_field, last.jump)


def _path(layers: Sequence[Layer]) -> str:
    return " → ".join(layer_text(layer) for layer in layers)


def filter_grid(net: Architecture) -> Tensor:
    """Draw the filters of the first convolution side by side, each normalised to its own range.

    Args:
        net: The network, with weights on the CPU.

    Returns:
        An image (3, H, W) float32 in [0, 1]: in colour if the network has three input channels, otherwise the grey
        mean over the channels.
    """
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    filters = first.weight.detach().float()
    if filters.shape[1] != 3:
        filters = filters.mean(dim=1, keepdim=True)
    enlarged = F.interpolate(filters, scale_factor=max(1, TILE // filters.shape[-1]), mode="nearest")
    columns = 1 + int((len(filters) - 1) ** 0.5)
    grid: Tensor = make_grid(enlarged, nrow=2 * columns, padding=2, normalize=True, scale_each=True, pad_value=1.0)
    return grid


def write_filters(net: Architecture, path: Path) -> None:
    """Write ``filter_grid`` as a PNG."""
    save_image(filter_grid(net), path)
