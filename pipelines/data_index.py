"""Write the offset index of WebDataset shards from other software.

    convatlas data index root=/data/birds-shards

data=imagefolder data.root=/data/birds-shards then reads them. Each sample is an image and a `.cls` file of the same
name with the number of its class. A `classes.txt` in the folder names the classes, one per line.
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
    """Index the shards of a folder that have no index yet.

    Args:
        config: Composed from ``conf/data_index.yaml``.

    Returns:
        ``shards``: ``shard`` and ``samples`` of each newly indexed shard.

    Raises:
        UserError: The folder has no shards, or a shard is not a tar of images and classes.
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
