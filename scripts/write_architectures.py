"""Write docs/architectures.md from the networks themselves and the text in architectures.md.j2.

python scripts/write_architectures.py [--output FILE]
"""

import argparse
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from convatlas.analysis.layers import Analysis, analyse
from convatlas.analysis.networks import described_config, described_networks
from convatlas.analysis.published import PUBLISHED, Published, printed_text

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "docs" / "architectures.md"


def figures(analyses: dict[str, Analysis]) -> dict[str, str]:
    """The numbers that the text mentions, counted."""
    (ungrouped,) = described_networks(described_config("describe", ["model=alexnet", "model.net.groups=1"]))
    parameters = {name: analysis.parameters for name, analysis in analyses.items()}
    multiply_adds = {name: analysis.multiply_adds for name, analysis in analyses.items()}
    vgg16, googlenet = analyses["vgg16"], analyses["googlenet"]
    linear = sum(layer.parameters for layer in vgg16.layers if layer.kind == "linear")
    fields = [layer.receptive_field for layer in vgg16.layers]
    kinds = [layer.kind for layer in googlenet.layers]
    return {
        "alexnet": f"{parameters['alexnet']:,}",
        "alexnet_ungrouped": f"{analyse(ungrouped.net, ungrouped.image_size).parameters:,}",
        "alexnet_torchvision": f"{parameters['alexnet_torchvision']:,}",
        "googlenet": f"{parameters['googlenet']:,}",
        "googlenet_ratio": f"{parameters['alexnet'] / parameters['googlenet']:.1f}",
        "googlenet_conv1": f"{googlenet.layers[0].multiply_adds / 1e6:.0f} M",
        "googlenet_multiply_adds": f"{multiply_adds['googlenet'] / 1e9:.3f} G",
        "googlenet_training": f"{googlenet.parameters + googlenet.auxiliary_parameters:,}",
        "googlenet_convolutions": str(kinds.count("convolution")),
        "resnet20_ratio": f"{parameters['resnet18'] / parameters['resnet20_cifar']:.0f}",
        "resnet50": f"{multiply_adds['resnet50'] / 1e9:.3f} G",
        "resnet50_v15": f"{multiply_adds['resnet50_v15'] / 1e9:.3f} G",
        "v15_extra": f"{100 * (multiply_adds['resnet50_v15'] / multiply_adds['resnet50'] - 1):.0f} %",
        "vgg16_before_pool1": str(fields[1]),
        "vgg16_pool1": str(fields[2]),
        "vgg16_linear": f"{linear:,}",
        "vgg16_linear_share": f"{100 * linear / parameters['vgg16']:.1f} %",
    }


def architectures() -> str:
    """The page."""
    networks = described_networks(described_config("describe", ["model=all"]))
    analyses = {network.name: analyse(network.net, network.image_size) for network in networks}
    rows = []
    for network in networks:
        analysis, published = analyses[network.name], PUBLISHED.get(network.name, Published(None, None, ""))
        rows.append(
            {
                "name": network.name,
                "parameters": f"{analysis.parameters:,}",
                "published_parameters": printed_text(published.parameters),
                "multiply_adds": f"{analysis.multiply_adds:,}",
                "published_multiply_adds": printed_text(published.multiply_adds),
                "receptive_field": f"{analysis.receptive_field:,}",
                "torchvision": f"`{network.net.torchvision_name}`" if network.net.torchvision_name else "",
            }
        )
    templates = Environment(  # the page is Markdown: nothing to escape  # noqa: S701
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return templates.get_template("architectures.md.j2").render(rows=rows, n=figures(analyses))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    output.write_text(architectures(), encoding="utf-8")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
