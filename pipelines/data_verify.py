"""Decode every image of a data set, and report errors and irregularities.

    convatlas data verify data=imagefolder data.root=/data/birds
    convatlas data verify data=imagefolder data.root=/data/birds threads=8 output=birds-verified

Errors stop a training: empty, unreadable, truncated or damaged files, files that are not images, decompression bombs.
Notices do not: extensions of another format, CMYK, 16 bits, transparency, EXIF orientation; equal images within a
split, across splits (leakage) and across classes. Writes verification.json with all findings, and the page
verification.html.

The exit status is 0 without errors and 3 with errors.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pydantic import PositiveInt

from convatlas.cli import execute
from convatlas.data.classification.datasets import open_dataset
from convatlas.data.images.thumbnails import thumbnail_png
from convatlas.data.tools.statistics import statistics
from convatlas.data.tools.verify import verify_source
from convatlas.errors import UserError
from convatlas.report.views.verification import PICTURES, write_verification_page
from convatlas.utils.console import print_fields, print_table, progress
from convatlas.utils.cores import usable_cores
from convatlas.utils.files import dumps, printable, write_atomic

STATUS_OF_ERRORS = 3
SHOWN = 10
"""Number of errors and of sets of equal images that are printed on the terminal."""


def data_verify(config: DictConfig) -> dict[str, Any]:
    """Decode every image of every split.

    Args:
        config: Composed from ``conf/data_verify.yaml``.

    Returns:
        The result of ``statistics``, with ``data`` (the data set's name) and the files written, ``json`` and ``page``.

    Raises:
        UserError: The data are missing, or ``output`` cannot be written.
    """
    data, output = config.data, Path(config.output)
    found = open_dataset(data)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={output}: cannot be written ({error.strerror})") from error
    records = {}
    for split, source in found.splits.items():
        with progress(split, len(source.labels)) as advance:
            records[split] = verify_source(source, data.in_channels, config.threads or usable_cores(), advance)

    result = {
        "data": printable(" ".join(filter(None, [data.name, data.get("root")]))),
        **statistics(found.splits, records, found.class_list, data.image_size, found.passed_over),
    }
    equal = [images["images"][0] for images in result["equal_images"][:PICTURES]]
    thumbnails = [thumbnail_png(found.splits[image["split"]].open(image["index"]).pixels()) for image in equal]
    files = {"json": output / "verification.json", "page": output / "verification.html"}
    write_atomic(files["json"], dumps(result, indent=1))
    write_verification_page(result, thumbnails, files["page"])
    return result | {name: str(path) for name, path in files.items()}


def show(result: Mapping[str, Any]) -> None:
    """Print the verdict, the counts, the first findings and the paths of the files."""
    sys.stdout.write(f"\n{result['verdict']}\n\n")
    kinds = [kind for kind in result["kinds"].values() if kind["count"]]
    if kinds:
        rows = [(kind["severity"], f"{kind['count']:,}", kind["title"], kind["remark"]) for kind in kinds]
        print_table(("", "count", "found", "what it means"), rows, numbers=("count",))
        sys.stdout.write("\n")
    lines = [f"{item['severity']:<6}  {item['path']}: {item['detail']}" for item in result["findings"][:SHOWN]]
    for equal in result["equal_images"][:SHOWN]:
        paths = [image["path"] for image in equal["images"][:SHOWN]]
        lines.append(f"notice  same {equal['same']} ({', '.join(equal['kinds'])}): {'  '.join(paths)}")
    more = len(result["findings"]) + len(result["equal_images"]) - len(lines)
    lines += [f"… and {more:,} more"] if more else []
    sys.stdout.writelines(f"{line}\n" for line in [*lines, *([""] if lines else [])])
    columns = ("split", "images", "classes", "smallest", "largest", "width", "height", "greyscale", "in other splits")
    print_table(columns, [_row(split, facts) for split, facts in result["splits"].items()], numbers=columns[1:])
    sys.stdout.write("\n")
    print_fields({"page": result["page"], "everything": result["json"]})


def _row(split: str, facts: Mapping[str, Any]) -> list[str]:
    classes, sizes = facts["classes"], facts["sizes"]
    return [
        split,
        f"{facts['num_images']:,}",
        f"{len(classes['counts']) - len(classes['missing']):,} of {len(classes['counts']):,}",
        f"{classes['smallest']['count']:,}",
        f"{classes['largest']['count']:,}",
        *("{min:,.0f} – {max:,.0f}".format(**sizes[side]) if side in sizes else "" for side in ("width", "height")),
        f"{facts['greyscale']:,}",
        f"{facts['leaked']:,}",
    ]


if __name__ == "__main__":
    execute(
        data_verify,
        show,
        {"threads": PositiveInt | None, "output": str},
        status=lambda result: 0 if result["ok"] else STATUS_OF_ERRORS,
    )
