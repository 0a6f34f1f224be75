"""Rebuild the embedded data set from the files of Fashion-MNIST, bit for bit.

    python scripts/build_fashion_mnist_sample.py [--source DIR] [--output DIR]

The files are those of github.com/zalandoresearch/fashion-mnist; Debian's package dataset-fashion-mnist installs
them into /usr/share/datasets/fashion-mnist. Taken are the first 500 training and the first 100 test images of each
class in file order, dealt class by class, so that every prefix is balanced.
"""

import argparse
import gzip
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.shards import write_shard

SOURCE = Path("/usr/share/datasets/fashion-mnist")
OUTPUT = Path(__file__).parents[1] / "src" / "convatlas" / "data" / "fashion_mnist_sample"
SPLITS = {"train": ("train", 500), "test": ("t10k", 100)}
CLASSES = 10


def read_idx(path: Path, header: int) -> NDArray[np.uint8]:
    """Read the bytes of an IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def samples(source: Path, prefix: str, per_class: int) -> Iterator[tuple[bytes, int]]:
    """Yield each chosen image as a PNG with its class."""
    labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", 8)
    images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    chosen = np.stack([np.flatnonzero(labels == label)[:per_class] for label in range(CLASSES)])
    for index in chosen.T.ravel():
        encoded = io.BytesIO()
        Image.fromarray(images[index]).save(encoded, "PNG", optimize=True)
        yield encoded.getvalue(), int(labels[index])


def main() -> None:
    """Write the shards and their indices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for split, (prefix, per_class) in SPLITS.items():
        path = arguments.output / f"{split}-000000.tar"
        count = write_shard(path, samples(arguments.source, prefix, per_class))
        print(f"{path}: {count:,} images, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
