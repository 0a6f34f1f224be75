"""The expected contents of a folder of shards, written before the first shard."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, TypeAdapter

from convatlas.errors import UserError
from convatlas.utils.files import FORMAT, check_format, dumps, read_json, write_atomic

NAME = "manifest.json"


@dataclass
class ShardRecord:
    """The entry of a shard.

    Args:
        name: The file name of the shard.
        samples: Number of images.
        bytes: Size of the shard; None until it is written.
        sha256: SHA-256 of the shard, as hexadecimal digits.
        index_sha256: SHA-256 of its index.
    """

    name: Annotated[str, Field(pattern=r"^[^/]+\.tar$")]
    samples: NonNegativeInt
    bytes: int | None = None
    sha256: str | None = None
    index_sha256: str | None = None


@dataclass
class Manifest:
    """All shards of a data set, and their origin.

    Args:
        settings: The processing of the images and the number of images of a shard.
        source: Fingerprint of the names and classes of the source.
        splits: The shards of each split, in order.
        images: Digests of the parts of the source. None until all shards are written, because until then an image that
            cannot be read may be repaired.
    """

    settings: dict[str, Any]
    source: str
    splits: dict[str, list[ShardRecord]]
    images: dict[str, str] | None = None

    @classmethod
    def read(cls, root: Path) -> "Manifest | None":
        """Read the manifest of a folder; None if there is none.

        Raises:
            UserError: The manifest is damaged or was written by a newer ConvAtlas.
        """
        path = root / NAME
        if not path.is_file():
            return None
        try:
            content = read_json(path, dict)
            check_format(path, content)
            return TypeAdapter(cls).validate_python(content)
        except ValueError as error:
            raise UserError(f"{path}: damaged; expected what `convatlas data prepare` wrote") from error

    @property
    def has_finished(self) -> bool:
        """Whether at least one shard is finished."""
        return any(shard.sha256 for shards in self.splits.values() for shard in shards)

    def write(self, root: Path) -> None:
        """Replace the manifest of a folder."""
        write_atomic(root / NAME, dumps({"format": FORMAT} | asdict(self), indent=1))

    def check_shards(self, root: Path, present: Iterable[Path]) -> None:
        """Refuse a folder whose shards differ from the manifest.

        Args:
            root: The folder.
            present: The shards in the folder.

        Raises:
            UserError: A shard is missing, has another size or is not listed. The message names the first one.
        """
        listed = {shard.name for shards in self.splits.values() for shard in shards}
        for path in present:
            if path.name not in listed:
                raise UserError(f"{path}: not among the shards that {NAME} lists; expected it in a folder of its own")
        for shard in (shard for shards in self.splits.values() for shard in shards):
            path = root / shard.name
            size = path.stat().st_size if path.is_file() else None
            if shard.bytes is None or size is None:
                raise UserError(f"{path}: not written yet, or lost; run the same `convatlas data prepare` again")
            if size != shard.bytes:
                raise UserError(
                    f"{path}: truncated or damaged: {size:,} bytes, expected {shard.bytes:,}, as {NAME} says; copy it "
                    "again, or run the same `convatlas data prepare` again"
                )
