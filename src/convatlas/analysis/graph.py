"""A picture of a network: its layers from the image downwards, beside the growth of the receptive field."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from convatlas.analysis.layers import Analysis, Layer

TEMPLATES = Environment(
    loader=PackageLoader("convatlas.analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


@dataclass(frozen=True)
class Row:
    """One line of the picture: a layer, a block, or several identical ones in succession.

    Attributes:
        name: Of the first, and of the last if there are several.
        label: What it computes, as papers draw it: ``3×3, 64, /2``.
        output_shape: Of the last.
        count: How many.
        first_receptive_field: Of the first one's output, in pixels.
        receptive_field: Of the last one's output, in pixels.
        jump: Of the last one's output, in pixels.
    """

    name: str
    label: str
    output_shape: tuple[int, ...]
    count: int
    first_receptive_field: int
    receptive_field: int
    jump: int


def graph_rows(layers: Sequence[Layer]) -> list[Row]:
    """Gather layers into the blocks whose paths end in a sum or a concatenation; batch norm goes with its layer."""
    blocks = {layer.name.rpartition(".")[0] for layer in layers if layer.kind in ("add", "concatenate")}
    shown = [layer for layer in layers if layer.kind != "batch norm"]
    units = [_unit(name, list(members)) for name, members in groupby(shown, key=lambda layer: _owner(layer, blocks))]
    rows = []
    for _, same in groupby(units, key=lambda unit: (unit.label, unit.output_shape)):
        run = list(same)
        name = run[0].name if len(run) == 1 else f"{run[0].name} … {run[-1].name}"
        last = run[-1]
        rows.append(
            Row(
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
    """A layer as papers draw it: ``3×3, 64, /2``; ``max pool 3×3, /2``; ``linear, 1000``."""
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
    """Write the picture of a network as SVG, with nothing outside the file.

    Args:
        name: The network, for the title.
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


def _unit(name: str, layers: list[Layer]) -> Row:
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
    return Row(name, label, last.output_shape, 1, last.receptive_field, last.receptive_field, last.jump)


def _path(layers: Sequence[Layer]) -> str:
    return " → ".join(layer_text(layer) for layer in layers)
