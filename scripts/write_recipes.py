"""Write docs/recipes.md from the recipes of conf/experiment and the text in recipes.md.j2.

python scripts/write_recipes.py [--output FILE]
"""

import argparse
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from convatlas.config.composition import compose

HERE = Path(__file__).parent
OUTPUT = HERE.parent / "docs" / "recipes.md"


def natural_order(name: str) -> list[str | int]:
    """A sort key by which resnet18 stands before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def row(name: str) -> dict[str, str]:
    """The line of a recipe in its table, with the first of the figures that it expects."""
    config = compose("train", [f"experiment={name}", "++data.root=somewhere"])
    cells = {
        "data": config.data.name,
        "name": name,
        "network": config.model.name,
        "epochs": str(config.trainer.max_epochs),
        "figure": "none",
        "tolerance": "",
        "source": "",
    }
    if config.expected:
        first = config.expected[0]
        top5 = " (top-5)" if first.metric == "test/top5" else ""
        cells |= {"figure": f"{100 * first.value:.2f}", "source": first.source + top5}
        if first.get("tolerance") is not None:
            cells["tolerance"] = f"± {100 * first.tolerance:g}"
    return cells


def recipes() -> str:
    """The page."""
    files = (HERE.parent / "conf" / "experiment").glob("*.yaml")
    names = sorted((file.stem for file in files if not file.stem.startswith("quickstart")), key=natural_order)
    templates = Environment(  # the page is Markdown: nothing to escape  # noqa: S701
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return templates.get_template("recipes.md.j2").render(rows=[row(name) for name in names])


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    output = parser.parse_args().output
    output.write_text(recipes(), encoding="utf-8")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
