"""Look inside a network: its layers, counts and receptive fields, beside the paper's figures.

    convatlas describe model=resnet50
    convatlas describe model=vgg16 data=cifar10
    convatlas describe model=all
    convatlas describe run=runs/resnet20_cifar-fashion_mnist_sample-1a2b3c4d-s0 output=pictures

Without `data=…`, the images have the size of the paper. `output=DIR` draws the layers with their receptive fields and,
for a trained network (run, checkpoint or model.weights), the filters of its first convolution.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import PositiveInt

from convatlas.analysis.layers import Analysis, Layer, analyse
from convatlas.analysis.networks import Network, described_config, described_networks
from convatlas.analysis.pictures import layer_text, write_filters, write_graph
from convatlas.analysis.published import PUBLISHED, printed_text
from convatlas.cli import execute
from convatlas.errors import UserError
from convatlas.utils.console import print_fields, print_table

TYPES = {
    "run": str | None,
    "checkpoint": str | None,
    "output": str | None,
    "data.num_classes": PositiveInt | None,
    "data.in_channels": PositiveInt,
    "data.image_size": PositiveInt | None,
}
"""The types of the keys of ``describe``."""


def describe(config: DictConfig) -> dict[str, Any]:
    """Analyse a network, or all networks.

    Args:
        config: Composed from ``conf/describe.yaml`` by ``described_config``.

    Returns:
        ``name``, ``input`` (C, H, W), ``num_classes``, ``parameters`` and ``multiply_adds`` at inference,
        ``auxiliary_parameters`` and ``auxiliary_multiply_adds``, in training only, ``receptive_field``, ``published``
        (or None), ``layers`` and ``files``; for ``model=all``, ``models``, a list of the same without layers and files.

    Raises:
        UserError: The image is too small for the network, the output cannot be written, or the weights do not fit.
    """
    networks = described_networks(config)
    if "models" in config:
        return {"models": [_summary(network, _analyse(network)) for network in networks]}
    network = networks[0]
    analysis = _analyse(network)
    files = [] if config.output is None else _draw(network, analysis, Path(config.output))
    layers = [asdict(layer) for layer in analysis.layers]
    return {**_summary(network, analysis), "layers": layers, "files": [str(file) for file in files]}


def _analyse(network: Network) -> Analysis:
    try:
        return analyse(network.net, network.image_size)
    except RuntimeError as error:  # raised by PyTorch if a layer gets an empty input
        raise UserError(f"data.image_size={network.image_size}: too small for {network.name} ({error})") from error


def _summary(network: Network, analysis: Analysis) -> dict[str, Any]:
    published = PUBLISHED.get(network.name)
    return {
        "name": network.name,
        "input": [network.net.in_channels, network.image_size, network.image_size],
        "num_classes": network.net.num_classes,
        "parameters": analysis.parameters,
        "multiply_adds": analysis.multiply_adds,
        "auxiliary_parameters": analysis.auxiliary_parameters,
        "auxiliary_multiply_adds": analysis.auxiliary_multiply_adds,
        "receptive_field": analysis.receptive_field,
        "published": published and asdict(published),
    }


def _draw(network: Network, analysis: Analysis, output: Path) -> list[Path]:
    files = [output / f"{network.name}.svg"]
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_graph(network.name, analysis, network.image_size, files[0])
        if network.trained:
            files.append(output / f"{network.name}-filters.png")
            write_filters(network.net, files[1])
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error.strerror})") from error
    return files


def show(result: Mapping[str, Any]) -> None:
    """Print the layers of a network, or a line for each network."""
    if "models" in result:
        _show_all(result["models"])
    else:
        _show_one(result)


def _show_one(result: Mapping[str, Any]) -> None:
    rows: list[list[str]] = []
    for layer in result["layers"]:
        if layer["kind"] == "batch norm":  # its parameters in the row of the convolution before it
            rows[-1][3] = f"{int(rows[-1][3].replace(',', '')) + layer['parameters']:,}"
            continue
        rows.append(
            [
                layer["name"],
                layer_text(Layer(**layer)),
                " × ".join(map(str, layer["output_shape"])),
                f"{layer['parameters']:,}",
                f"{layer['multiply_adds']:,}",
                f"{layer['receptive_field']:,}",
                str(layer["jump"]),
            ]
        )
    columns = ("layer", "kernel, channels", "output", "parameters", "multiply-adds", "receptive field", "jump")
    print_table(columns, rows, numbers=columns[2:])
    published = result["published"] or {}
    print_fields(
        {
            "network": f"{result['name']}, {result['num_classes']:,} classes, "
            f"input {' × '.join(map(str, result['input']))}",
            **{
                key.replace("_", "-"): _beside(result[key], published.get(key), result[f"auxiliary_{key}"])
                for key in ("parameters", "multiply_adds")
            },
            "receptive field": f"{result['receptive_field']:,} pixels",
            **({"paper": published["source"]} if published else {}),
            **({"pictures": ", ".join(result["files"])} if result["files"] else {}),
        }
    )


def _show_all(models: list[Mapping[str, Any]]) -> None:
    rows = []
    for model in models:
        published = model["published"] or {}
        rows.append(
            (
                model["name"],
                f"{model['parameters']:,}",
                printed_text(published.get("parameters")),
                f"{model['multiply_adds']:,}",
                printed_text(published.get("multiply_adds")),
                f"{model['receptive_field']:,}",
            )
        )
    columns = ("model", "parameters", "paper", "multiply-adds", "paper", "receptive field")
    print_table(columns, rows, numbers=columns[1:])


def _beside(count: int, printed: float | None, auxiliary: int) -> str:
    paper = "" if printed is None else f" (paper: {printed_text(printed)}, {100 * (count / printed - 1):+.1f} %)"
    heads = f"; auxiliary heads, in training only: {auxiliary:,}" if auxiliary else ""
    return f"{count:,}{paper}{heads}"


if __name__ == "__main__":
    execute(describe, show, TYPES, described_config)
