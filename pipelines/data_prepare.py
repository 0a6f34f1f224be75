"""Write a data set as tar shards in WebDataset layout, each with an offset index.

    convatlas data prepare data=imagefolder data.root=/data/birds output=/data/birds-shards
    convatlas data prepare data=imagenet data.root=/data/imagenet output=/data/imagenet-340 resize.side=340

Without `resize.side` the bytes of every image are kept. With it, larger images are resized and encoded as JPEG; smaller
ones are kept. The output replaces the folder: data=imagefolder data.root=/data/birds-shards. The same command continues
after an interruption. The same images give the same bytes with any number of threads.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from pydantic import Field, PositiveInt

from convatlas.cli import execute
from convatlas.config.composition import plain, project_path
from convatlas.data.classification.datasets import open_dataset
from convatlas.data.digests import FileDigests
from convatlas.data.module import source_digests
from convatlas.data.sources.manifest import NAME
from convatlas.data.sources.scan import passed_over_text
from convatlas.data.tools.prepare import begin, claimed, write_shards
from convatlas.data.tools.recode import Reencode
from convatlas.errors import UserError
from convatlas.utils.console import print_fields, print_table, progress
from convatlas.utils.cores import usable_cores
from convatlas.utils.files import dumps, write_atomic

TYPES = {
    "output": str,
    "resize.side": PositiveInt | None,
    "resize.which": Literal["short", "long"],
    "resize.quality": Annotated[int, Field(ge=1, le=100)],
    "samples_per_shard": PositiveInt,
    "threads": PositiveInt | None,
}


def data_prepare(config: DictConfig) -> dict[str, Any]:
    """Write the shards of every split that the data set has.

    Args:
        config: Composed from ``conf/data_prepare.yaml``.

    Returns:
        ``output``, ``manifest``, ``classes``, ``splits`` (``samples``, ``shards`` and ``bytes`` of each), ``kept``
        (number of existing shards), ``passed_over`` (number of files that are not images, by suffix) and ``next``, the
        next command.

    Raises:
        UserError: The data are missing, an image cannot be read, ``output`` cannot be written or holds something else.
    """
    data, output = config.data, Path(config.output)
    if data.on_error == "skip":
        raise UserError("data.on_error=skip: shards hold every image; `convatlas data verify` lists those to remove")
    background = plain(config)["data"]["background"]
    shrink = Reencode(**config.resize, background=background) if config.resize.side else None
    settings = {f"resize.{key}": value if shrink else None for key, value in config.resize.items()}
    settings["data.in_channels"] = data.in_channels
    if shrink and background is not None:  # manifests of earlier versions lack the key
        settings["data.background"] = background
    found = open_dataset(data)
    with claimed(output):
        digests = source_digests(found.splits, FileDigests(data.fingerprint))
        manifest = begin(output, found.splits, found.class_list, config.samples_per_shard, settings, digests)
        write_atomic(output / "classes.txt", "".join(f"{name}\n" for name in found.class_list.names))
        with progress("prepare", sum(len(source.labels) for source in found.splits.values())) as advance:
            kept = write_shards(
                output,
                manifest,
                found.splits,
                shrink=shrink,
                in_channels=data.in_channels,
                threads=config.threads or usable_cores(),
                advance=advance,
            )
        manifest.images = digests
        manifest.write(output)
    splits = {
        split: {
            "samples": sum(shard.samples for shard in shards),
            "shards": len(shards),
            "bytes": sum(shard.bytes or 0 for shard in shards),
        }
        for split, shards in manifest.splits.items()
    }
    return {
        "output": str(output),
        "manifest": str(output / NAME),
        "classes": len(found.class_list.names),
        "splits": splits,
        "kept": kept,
        "passed_over": dict(found.passed_over),
        "next": _next_command(plain(config)["data"], output),
    }


def _next_command(data: Mapping[str, Any], output: Path) -> str:
    if data["dataset"]["_target_"].endswith(".image_folder"):
        overrides = [f"data={data['name']}", f"data.root={output}"]
    else:  # copies the settings of the data set's own configuration
        keys = ("in_channels", "image_size", "resize", "mean", "std")
        shown = [f"data.{key}={dumps(data[key])}" for key in keys]
        overrides = ["data=imagefolder", f"data.root={output}", *_usual_augment(data["name"]), *shown]
    if data["background"] is not None:  # images that were not resized keep transparent pixels
        overrides.append(f"data.background={dumps(data['background'])}")
    return shlex.join(["convatlas", "check", *overrides])


def _usual_augment(data: str) -> list[str]:
    """The override for the default augmentation of a data set."""
    try:
        with hydra.initialize_config_dir(config_dir=str(project_path("conf").resolve()), version_base="1.3"):
            composed = hydra.compose("train", [f"data={data}"], return_hydra_config=True)
    except HydraException:  # data.name is not an option: there is no default
        return []
    return [f"augment={composed.hydra.runtime.choices.augment}"]


def show(result: Mapping[str, Any]) -> None:
    """Print the written files and the next command."""
    rows = [
        (split, f"{counts['samples']:,}", f"{counts['shards']:,}", f"{counts['bytes'] / 2**20:,.1f} MiB")
        for split, counts in result["splits"].items()
    ]
    print_table(("split", "images", "shards", "size"), rows, numbers=("images", "shards", "size"))
    sys.stdout.write("\n")
    already = f"; {result['kept']:,} were there already" if result["kept"] else ""
    print_fields(
        {
            "shards": f"{result['output']} ({result['classes']:,} classes{already})",
            "checksums": result["manifest"],
            **({"files": passed_over_text(result["passed_over"])} if result["passed_over"] else {}),
            "next": result["next"],
        }
    )


if __name__ == "__main__":
    execute(data_prepare, show, TYPES)
