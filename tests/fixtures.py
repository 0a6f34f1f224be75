"""Generated images in the layouts that users have; commands on two ranks."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

PEAK_MEMORY = """
from pathlib import Path

def peak():  # not ru_maxrss, which a process takes over from its parent
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
"""
"""The start of a script that measures its own peak memory in bytes."""


def write_image_folder(
    root: Path, classes: Sequence[str], per_class: int, size: int, splits: Sequence[str] = ("train", "val")
) -> Path:
    """Write ``root/<split>/<class>/<number>.jpg``: each class has a colour of its own, each image its own noise."""
    generator = np.random.default_rng(0)
    for split in splits:
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                noise = generator.integers(0, 100, (size, size + 8, 3))
                noise[..., label % 3] += 120
                Image.fromarray(noise.astype(np.uint8)).save(folder / f"{number:03d}.jpg", quality=90)
    return root


def write_faulty_folder(root: Path) -> dict[str, list[str]]:
    """Write an image folder of two classes in which everything is wrong that ``data verify`` knows.

    Returns:
        The paths under ``root`` of each kind of finding.
    """
    write_image_folder(root, ["ant", "bee"], per_class=6, size=40)
    train, val = root / "train", root / "val"
    rgb = Image.open(train / "ant" / "000.jpg").rotate(180)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6

    (train / "ant" / "empty.jpg").touch()
    (train / "ant" / "page.jpg").write_text("<html>404 Not Found</html>", encoding="utf-8")
    truncated = (train / "ant" / "001.jpg").read_bytes()
    (train / "bee" / "half.jpg").write_bytes(truncated[: len(truncated) // 2])
    (train / "bee" / "joined.jpg").write_bytes(truncated[: len(truncated) // 2] + b"\xff\xd9")
    Image.new("1", (20_000, 20_000)).save(val / "ant" / "bomb.png")
    Image.fromarray(np.zeros((40, 40), np.float32)).save(val / "bee" / "float.tif")
    (val / "bee" / "dangling.jpg").symlink_to("nowhere.jpg")

    rgb.save(train / "bee" / "really-png.jpg", "PNG")
    rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("CMYK").save(train / "bee" / "print.jpg")
    deep = np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40
    Image.fromarray(deep).save(train / "bee" / "scan.png")
    rgb.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(train / "ant" / "phone.jpg", exif=exif)

    shutil.copy(train / "ant" / "002.jpg", train / "ant" / "copy.jpg")
    shutil.copy(train / "ant" / "003.jpg", val / "ant" / "leaked.jpg")
    Image.open(train / "ant" / "004.jpg").save(train / "bee" / "ant.png")  # other bytes, the same pixels
    return {
        "empty": ["train/ant/empty.jpg"],
        "not_an_image": ["train/ant/page.jpg"],
        "damaged": ["train/bee/half.jpg"],
        "damaged_inside": ["train/bee/joined.jpg"],
        "bomb": ["val/ant/bomb.png"],
        "32_bit": ["val/bee/float.tif"],
        "unreadable": ["val/bee/dangling.jpg"],
        "mislabelled": ["train/bee/really-png.jpg"],
        "cmyk": ["train/bee/print.jpg"],
        "16_bit": ["train/bee/scan.png"],
        "exif_rotated": ["train/ant/phone.jpg"],
        "duplicate": ["train/ant/002.jpg", "train/ant/copy.jpg"],
        "leakage": ["train/ant/003.jpg", "val/ant/leaked.jpg"],
        "contradiction": ["train/ant/004.jpg", "train/bee/ant.png"],
    }


def copy_run(run: Path, root: Path) -> Path:
    """Copy a run's directory into another root, so that a test may change it."""
    return Path(shutil.copytree(run, root / run.name))


def run_two_ranks(
    *arguments: str, each: Sequence[Sequence[str]] = ((), ()), cwd: Path | None = None
) -> list["subprocess.CompletedProcess[str]"]:
    """Run Python with some arguments twice at a time, as the ranks of a launcher that is neither torchrun nor srun.

    Args:
        arguments: Of both.
        each: What follows them on each rank.
        cwd: The working directory.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, *arguments, *own],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        for rank, own in enumerate(each)
    ]
    ends = [(process, *process.communicate(timeout=400)) for process in processes]
    return [subprocess.CompletedProcess(process.args, process.returncode, *said) for process, *said in ends]
