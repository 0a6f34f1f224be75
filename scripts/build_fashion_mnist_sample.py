"""Rebuild the embedded data set from the files of Fashion-MNIST, bit for bit.

    python scripts/build_fashion_mnist_sample.py [--check] [--source DIR] [--output DIR]

The files are those of github.com/zalandoresearch/fashion-mnist; Debian's package dataset-fashion-mnist installs
them into /usr/share/datasets/fashion-mnist. Taken are the first 500 training and the first 100 test images of each
class in file order, dealt class by class, so that every prefix is balanced.
"""

import argparse
import filecmp
import gzip
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.sources.shards import ShardSample, index_path, write_shard

SOURCE = Path("/usr/share/datasets/fashion-mnist")
OUTPUT = Path(__file__).parents[1] / "src" / "convatlas" / "data" / "classification" / "fashion_mnist_sample"
SPLITS = {"train": ("train", 500), "test": ("t10k", 100)}
CLASSES = 10


def read_idx(path: Path, header: int) -> NDArray[np.uint8]:
    """Read the bytes of an IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def samples(source: Path, prefix: str, per_class: int) -> Iterator[ShardSample]:
    """Yield each chosen image as a PNG with its class."""
    labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", 8)
    images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    chosen = np.stack([np.flatnonzero(labels == label)[:per_class] for label in range(CLASSES)])
    for number, index in enumerate(chosen.T.ravel()):
        encoded = io.BytesIO()
        Image.fromarray(images[index]).save(encoded, "PNG", optimize=True)
        yield ShardSample(f"{number:05d}.png", encoded.getvalue(), int(labels[index]))


def build(source: Path, output: Path) -> list[Path]:
    """Write the shards and their indices, and return their paths."""
    shards = [output / f"{split}-000000.tar" for split in SPLITS]
    for shard, (prefix, per_class) in zip(shards, SPLITS.values(), strict=True):
        write_shard(shard, samples(source, prefix, per_class))
    return [path for shard in shards for path in (shard, index_path(shard))]


def main() -> int:
    """Build the sample, or say which of its files differ from a new build; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--check", action="store_true", help="write nothing; compare a new build with the output")
    arguments = parser.parse_args()
    if not arguments.check:
        arguments.output.mkdir(parents=True, exist_ok=True)
        for path in build(arguments.source, arguments.output):
            print(f"{path}: {path.stat().st_size:,} bytes")
        return 0
    with tempfile.TemporaryDirectory() as directory:
        names = [path.name for path in build(arguments.source, Path(directory))]
        _, different, missing = filecmp.cmpfiles(directory, arguments.output, names, shallow=False)
    for name in different + missing:
        print(f"{arguments.output / name}: differs from a new build")
    return 1 if different or missing else 0


if __name__ == "__main__":
    sys.exit(main())
