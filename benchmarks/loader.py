"""CPU time per image and images per second of our loader and its peers, on the same images with the same crops.

    python -m benchmarks.loader --images TAR_OR_FOLDER [--rounds 5] [--batches 20] [--loaders ours,ffcv] [--workers 2]
    python -m benchmarks.loader --images TAR_OR_FOLDER --quality

The images lie in a folder for each class. Original files and the same at short side 340, JPEG quality 90, are kept
under ``--store`` in every loader's layout (``benchmarks.stored_forms``), at most ``--limit`` of them; fewer than
``--batches`` batches are repeated. An epoch is whole batches, so that each loader delivers every image once.

Each loader has a process of its own, which lives through all rounds: imports, workers and compilation are paid before
the first. The processes take turns (ours, first peer, second peer, …), those that wait sleep. A turn is one epoch that
does not count, which warms the caches again, and right behind it the epochs that count. Wall-clock time and CPU time
are read when the last batch of the one and of the others has arrived: a loader that prepares batches of the next epoch
is at the same point both times. CPU time is user and system time of the loader's process and all its descendants,
ended ones included (psutil, from the kernel's account of each process), over the images delivered. The batches are not
looked at, so the consumer never keeps a loader waiting.

A peer that is not installed is left out, with the command that installs it. DALI prints that it misses libraries for
GPUs, which it does not need here.

``--quality`` prints how far our crops lie from PIL's: the mean absolute difference to the antialiased bilinear crop of
the same box, in grey levels of 255.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image, ImageOps

from benchmarks.loader_peers import INSTALL, LOADERS, RATIO, SCALE, SIZE
from benchmarks.stored_forms import BATCH, StoredForm, prepare
from convatlas.data.images.decode import open_picture
from convatlas.data.transforms.image import RandomResizedCrop

GOALS = {"dali": 1 / 2, "torchvision": 1 / 3}
"""Our CPU time relative to theirs, at most."""
BEST_PEER_GOAL = 1 / 1.3
QUALITY_GOAL = 1.5


@dataclass(frozen=True)
class Turn:
    """What one loader took in one round.

    Args:
        cpu: Seconds of user and system time.
        wall: Seconds.
        images: Images delivered.
        dtype: Type of the images.
    """

    cpu: float
    wall: float
    images: int
    dtype: str

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per image."""
        return 1000 * self.cpu / self.images

    @property
    def rate(self) -> float:
        """Images per second of wall-clock time."""
        return self.images / self.wall


def cpu_seconds() -> float:
    """User and system time of this process and its descendants, ended ones included."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (this, *this.children(recursive=True)))


def serve(connection: Connection, name: str, form: StoredForm, workers: int, epochs: int) -> None:
    """Build a loader, say so, and take a turn whenever asked, until the other end closes."""
    multiprocessing.set_start_method("fork", force=True)  # the peers' workers start as they do by default on Linux
    try:
        epoch = LOADERS[name](form, workers)
    except ImportError as error:
        connection.send(f"{name} is left out ({error}): {INSTALL.get(name, '')}")
        return
    for images in epoch():  # starts the workers, compiles
        dtype = str(images.dtype).removeprefix("torch.")
        if images.shape[1:] != (3, SIZE, SIZE):
            raise SystemExit(f"{name}: batches of {tuple(images.shape)}")
    connection.send(None)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        for _ in epoch():
            pass
        cpu, wall, images_seen = cpu_seconds(), time.perf_counter(), 0
        for _ in range(epochs):
            for images in epoch():
                images_seen += len(images)
        connection.send(Turn(cpu_seconds() - cpu, time.perf_counter() - wall, images_seen, dtype))


def measure(form: StoredForm, names: Sequence[str], rounds: int, workers: int, epochs: int) -> dict[str, list[Turn]]:
    """Let the loaders take turns.

    Args:
        form: The images.
        names: The loaders.
        rounds: Turns of each.
        workers: Threads or worker processes of each.
        epochs: Epochs that count in a turn.

    Returns:
        The turns of each loader that is installed.
    """
    context = multiprocessing.get_context("spawn")  # nothing of this process is inherited
    with ExitStack() as stack:  # to close the connections ends the processes
        connections: dict[str, Connection] = {}
        for name in names:
            mine, theirs = context.Pipe()
            stack.enter_context(mine)
            context.Process(target=serve, args=(theirs, name, form, workers, epochs)).start()
            theirs.close()
            if (left_out := mine.recv()) is None:
                connections[name] = mine
            else:
                print(left_out, flush=True)
        turns: dict[str, list[Turn]] = {name: [] for name in connections}
        for number in range(rounds):
            for name, connection in connections.items():
                connection.send("turn")
                turns[name].append(connection.recv())
            line = ", ".join(f"{name} {turns[name][-1].cpu_ms:.2f}" for name in turns)
            print(f"round {number + 1}, CPU ms per image: {line}", flush=True)
    return turns


def print_table(turns: dict[str, list[Turn]]) -> None:
    """Medians of each loader; ours over theirs, of the medians and of each round; the goals."""
    cpu = {name: statistics.median(turn.cpu_ms for turn in found) for name, found in turns.items()}
    print("\n| loader | images | CPU ms/image | images/s | ours/theirs, CPU | each round | ours/theirs, images/s |")
    print("|---|---|---|---|---|---|---|")
    rate = {name: statistics.median(turn.rate for turn in found) for name, found in turns.items()}
    for name in sorted(turns, key=lambda name: cpu[name]):
        ratios = ["", "", ""]
        if name != "ours" and "ours" in turns:
            each = [mine.cpu / theirs.cpu for mine, theirs in zip(turns["ours"], turns[name], strict=True)]
            ratios = [f"{cpu['ours'] / cpu[name]:.2f}", " ".join(f"{r:.2f}" for r in each)]
            ratios.append(f"{rate['ours'] / rate[name]:.2f}")
        print(f"| {name} | {turns[name][0].dtype} | {cpu[name]:.2f} | {rate[name]:.0f} | {' | '.join(ratios)} |")
    print()
    peers = [name for name in cpu if name != "ours"]
    if "ours" in cpu and peers:
        best = min(peers, key=lambda name: cpu[name])
        goals = {f"best peer ({best})": (best, BEST_PEER_GOAL)}
        goals |= {name: (name, goal) for name, goal in GOALS.items() if name in cpu}
        for label, (name, goal) in goals.items():
            ratio = cpu["ours"] / cpu[name]
            print(f"CPU time, ours/{label}: {ratio:.2f}, goal {goal:.2f}, {'met' if ratio <= goal else 'missed'}")


def crop_differences(form: StoredForm) -> list[float]:
    """Mean absolute difference of our crop to PIL's of the same box, in grey levels, for each image."""
    crop = RandomResizedCrop(scale=SCALE, ratio=RATIO)
    row = torch.empty((1, 3, SIZE, SIZE), dtype=torch.uint8, memory_format=torch.channels_last)[0]
    differences = []
    for index, path in enumerate(sorted((form.folder / "train").glob("*/*"))):
        image = open_picture(path.read_bytes(), 3, str(path))
        crop(image, np.random.default_rng(index), row)
        found = row.permute(1, 2, 0).numpy()
        top, left, height, width = crop.box(image.height, image.width, np.random.default_rng(index))
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        box = picture.crop((left, top, left + width, top + height))
        expected = np.asarray(box.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        differences.append(float(np.abs(found.astype(np.int16) - expected).mean()))
    return differences


def main() -> None:
    """Prepare the stored forms, then measure on each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder or tar file with a folder for each class")
    parser.add_argument("--store", type=Path, help="where the stored forms are kept")
    parser.add_argument("--limit", type=int, default=10_000, help="images at most")
    parser.add_argument("--batches", type=int, default=20, help="in an epoch at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="that count in a turn")
    parser.add_argument("--workers", type=int, default=2, help="threads or worker processes of each loader")
    parser.add_argument("--loaders", default=",".join(LOADERS), help="by commas")
    parser.add_argument("--quality", action="store_true", help="our crops against PIL's instead of the speed")
    arguments = parser.parse_args()
    names = arguments.loaders.split(",")
    if unknown := [name for name in names if name not in LOADERS]:
        parser.error(f"--loaders: no {', '.join(unknown)}; choose from {', '.join(LOADERS)}")
    if not arguments.images.exists():
        parser.error(f"--images {arguments.images}: no such file or folder")
    store = arguments.store or Path(tempfile.gettempdir()) / f"convatlas-loader-{arguments.images.stem}"
    for form in prepare(arguments.images, store, arguments.limit, arguments.batches):
        files = list((form.folder / "train").glob("*/*"))
        size = sum(file.stat().st_size for file in files) / len(files)
        print(f"\n{form.path.name}: {len(files)} images, {size / 1000:.0f} kB each", flush=True)
        if arguments.quality:
            found = crop_differences(form)
            mean = statistics.mean(found)
            verdict = "met" if mean <= QUALITY_GOAL else "missed"
            print(f"mean difference to PIL {mean:.3f} grey levels (worst image {max(found):.2f}), ", end="")
            print(f"goal {QUALITY_GOAL}, {verdict}")
        else:
            print(f"batches of {BATCH}, {arguments.workers} threads or workers, {arguments.rounds} rounds")
            print_table(measure(form, names, arguments.rounds, arguments.workers, arguments.epochs))


if __name__ == "__main__":
    main()
