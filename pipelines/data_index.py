"""Write the offset index of WebDataset shards that other software made.

    convatlas data index root=/data/birds-shards

Then data=imagefolder data.root=/data/birds-shards reads them. Each sample is an image and its class as digits in a
`.cls` of the same name; a `classes.txt` beside the shards names the classes, one a line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from convatlas.cli import execute
from convatlas.data.sources.shards import index_path, index_shard
from convatlas.errors import UserError
from convatlas.utils.console import print_table


def data_index(config: DictConfig) -> dict[str, Any]:
    """Index the shards of a folder that have no index.

    Args:
        config: Composed from ``conf/data_index.yaml``.

    Returns:
        ``shards``: for each shard indexed now, ``shard`` and ``samples``.

    Raises:
        UserError: No shards there, or one that is no tar of images and classes.
    """
    shards = sorted(Path(config.root).glob("*.tar"))
    if not shards:
        raise UserError(f"root={config.root}: no .tar there; expected train-*.tar and val-*.tar or test-*.tar")
    missing = [shard for shard in shards if not index_path(shard).is_file()]
    try:
        return {"shards": [{"shard": str(shard), "samples": index_shard(shard)} for shard in missing]}
    except OSError as error:
        raise UserError(f"root={config.root}: cannot be written ({error.strerror})") from error


def show(result: Mapping[str, Any]) -> None:
    """Print what was indexed."""
    rows = [(row["shard"], f"{row['samples']:,}") for row in result["shards"]]
    print_table(("indexed", "images"), rows, numbers=("images",))


if __name__ == "__main__":
    execute(data_index, show, {"root": str})
