"""Shards are what the folder was, the same bytes every time, and cost nothing twice."""

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image, UnidentifiedImageError

from convatlas.config.composition import check_config, compose, plain
from convatlas.data.classification.datasets import fashion_mnist_sample, image_folder
from convatlas.data.sources.images import LabelledSource
from convatlas.data.sources.shards import ShardSource, index_path
from convatlas.data.tools.recode import Reencode, stored_form
from convatlas.errors import UserError
from pipelines.data_prepare import TYPES, _next_command, data_prepare
from tests.conftest import Command
from tests.fixtures import write_image_folder

CLASSES = ["ant", "bee", "cat"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_image_folder(tmp_path / "images", CLASSES, per_class=5, size=24)


def prepare(root: Path, output: Path, *overrides: str) -> dict[str, Any]:
    arguments = ["data=imagefolder", f"data.root={root}", f"output={output}", "samples_per_shard=4", *overrides]
    return data_prepare(compose("data_prepare", arguments))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def assert_same(first: LabelledSource, second: LabelledSource) -> None:
    assert first.labels.tolist() == second.labels.tolist()
    assert all(first.encoded(index) == second.encoded(index) for index in range(len(first.labels)))


@pytest.mark.parametrize("splits", [("train", "val"), ("train", "test"), ("train", "val", "test")])
def test_shards_read_as_the_folder_does(splits: tuple[str, ...], tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", CLASSES, per_class=3, size=8, splits=splits)
    (root / "classes.txt").write_text("cat\nant\nbee\n", encoding="utf-8")
    folder = image_folder(3, root=str(root))
    result = prepare(root, tmp_path / "shards")
    shards = image_folder(3, root=str(tmp_path / "shards"))
    assert shards.class_list == folder.class_list
    assert_same(shards.train, folder.train)
    assert_same(shards.test, folder.test)
    assert (shards.val is None) == (folder.val is None)
    if shards.val and folder.val:
        assert_same(shards.val, folder.val)
    assert result["splits"]["train"]["samples"] == 9
    assert result["splits"]["train"]["shards"] == 3
    assert shards.train.path(8) == "train-000002.tar/00000008.jpg"


def test_arrays_become_shards_with_the_same_pixels(tmp_path: Path) -> None:
    output = tmp_path / "shards"
    folder = tmp_path / "datasets" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 28, 28)).astype(np.uint8)
    for prefix in ("train", "t10k"):
        header = b"\0\0\x08\x03" + b"".join(side.to_bytes(4, "big") for side in pixels.shape)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x14" + bytes([*range(10)] * 2))
    overrides = ["data=fashion_mnist", f"data.root={tmp_path / 'datasets'}", "data.dataset.download=false"]
    result = data_prepare(compose("data_prepare", [*overrides, f"output={output}"]))
    found = image_folder(1, root=str(output))
    assert [np.array_equal(found.test.open(index).pixels()[0], pixels[index]) for index in range(20)] == [True] * 20
    assert found.train.path(3) == "train-000000.tar/00000003.png"
    assert found.class_list == fashion_mnist_sample(1).class_list
    assert "data=imagefolder" in result["next"]
    assert "augment=flip data.in_channels=1 data.image_size=32" in result["next"]


def test_the_bytes_do_not_depend_on_threads_or_time(images: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"shards-{threads}" for threads in (1, 2, 5)]
    for threads, output in zip((1, 2, 5), outputs, strict=True):
        prepare(images, output, f"threads={threads}", "resize.side=16")
    assert content(outputs[0]) == content(outputs[1]) == content(outputs[2])
    assert len(content(outputs[0])) == 2 + 2 * (4 + 4)


@pytest.mark.parametrize(("which", "size"), [("short", (21, 16)), ("long", (16, 12))])
def test_large_images_are_shrunk_and_small_ones_stay(
    which: str, size: tuple[int, int], images: Path, tmp_path: Path
) -> None:
    small = images / "train" / "ant" / "small.jpg"
    Image.new("RGB", (16, 12), "red").save(small)
    prepare(images, tmp_path / "shards", "resize.side=16", f"resize.which={which}", "resize.quality=95")
    source = image_folder(3, root=str(tmp_path / "shards")).train
    original = Image.open(images / "train" / "ant" / "000.jpg")
    expected = original.resize(size, Image.Resampling.LANCZOS)
    found = Image.open(io.BytesIO(source.encoded(0)))
    assert (found.format, found.size, original.size) == ("JPEG", size, (32, 24))
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(expected).astype(int))
    assert difference.mean() < 12  # noise at 4:2:0
    assert source.encoded(5) == small.read_bytes()


def test_transparent_images_are_not_made_jpegs_without_a_background(images: Path, tmp_path: Path) -> None:
    alpha = np.zeros((24, 24), np.uint8)
    alpha[:, :12] = 255
    logo = Image.fromarray(np.dstack([np.zeros((24, 24, 3), np.uint8), alpha]))
    logo.save(images / "train" / "ant" / "000.png")
    (images / "val" / "ant" / "notes.txt").touch()
    with pytest.raises(
        UserError, match=r"000\.png: has transparent pixels, .*expected data\.background=\[255,255,255\]"
    ):
        prepare(images, tmp_path / "refused", "resize.side=16")
    result = prepare(images, tmp_path / "white", "resize.side=16", "data.background=[255,255,255]")
    shown = image_folder(3, root=str(tmp_path / "white")).train.open(1).pixels().float()
    assert shown[..., 2].mean() < 20
    assert shown[..., -2].mean() > 235
    assert result["next"].endswith("'data.background=[255, 255, 255]'")
    assert result["passed_over"] == {".txt": 1}
    with pytest.raises(UserError, match=r"holds shards of data\.background=\[255, 255, 255\], not \[0, 0, 0\]"):
        prepare(images, tmp_path / "white", "resize.side=16", "data.background=[0,0,0]")
    kept = prepare(images, tmp_path / "kept")
    assert "background" not in kept["next"]
    assert image_folder(3, root=str(tmp_path / "kept")).train.encoded(1) == (images / "train/ant/000.png").read_bytes()


def test_greyscale_stays_greyscale(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", CLASSES, per_class=1, size=24)
    prepare(root, tmp_path / "shards", "resize.side=16", "data.in_channels=1")
    found = image_folder(1, root=str(tmp_path / "shards")).train
    assert Image.open(io.BytesIO(found.encoded(0))).mode == "L"
    assert found.open(0).pixels().shape == (1, 16, 21)


def test_a_member_is_named_by_its_true_format(images: Path, tmp_path: Path) -> None:
    for number, format in enumerate(("PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")):
        Image.new("RGB", (8, 8)).save(images / "train" / "ant" / f"0{number}.jpg", format)
    prepare(images, tmp_path / "shards")
    source = image_folder(3, root=str(tmp_path / "shards")).train
    suffixes = [source.path(index).rpartition(".")[2] for index in range(11)]
    assert sorted(suffixes) == ["bmp", "gif", *["jpg"] * 5, "png", "ppm", "tif", "webp"]


@pytest.mark.parametrize("side", ["null", "16"])
def test_a_jpeg_whose_header_pillow_refuses_is_kept_or_shrunk(side: str, images: Path, tmp_path: Path) -> None:
    odd = images / "train" / "ant" / "000.jpg"
    odd.write_bytes(odd.read_bytes()[:2] + b"\xff\xee\x00\x07Adobe" + odd.read_bytes()[2:])
    with pytest.raises(UnidentifiedImageError):
        Image.open(odd)
    prepare(images, tmp_path / "shards", f"resize.side={side}")
    source = image_folder(3, root=str(tmp_path / "shards")).train
    assert source.path(0) == "train-000000.tar/00000000.jpg"
    assert (source.encoded(0) == odd.read_bytes()) == (side == "null")
    assert source.open(0).height == (24 if side == "null" else 16)


def test_a_photograph_with_a_second_picture_is_a_jpeg() -> None:
    image, buffer = Image.new("RGB", (32, 32)), io.BytesIO()
    image.save(buffer, "MPO", save_all=True, append_images=[image])
    for content in (buffer.getvalue(), buffer.getvalue() + b"trailing"):  # which Pillow decodes
        assert stored_form(content, None, 3, "x.jpg") == ("jpg", content)


@pytest.mark.parametrize(("in_channels", "mode"), [(1, "L"), (3, "RGB")])
def test_an_image_one_pixel_wide_is_shrunk_to_one(in_channels: int, mode: str) -> None:
    column = np.arange(100 * 3, dtype=np.uint8).reshape(100, 1, 3)
    buffer = io.BytesIO()
    Image.fromarray(column).save(buffer, "PNG")
    suffix, content = stored_form(
        buffer.getvalue(), Reencode(side=50, which="long", quality=95), in_channels, "column.png"
    )
    image = Image.open(io.BytesIO(content))
    assert (suffix, image.mode, image.size) == ("jpg", mode, (1, 50))
    expected = Image.fromarray(column).convert(mode).resize((1, 50), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean() < 8


def test_the_manifest_has_counts_settings_and_checksums(images: Path, tmp_path: Path) -> None:
    result = prepare(images, tmp_path / "shards", "resize.side=16")
    manifest = json.loads(Path(result["manifest"]).read_text(encoding="utf-8"))
    assert manifest["settings"] == {
        "samples_per_shard": 4,
        "resize.side": 16,
        "resize.which": "short",
        "resize.quality": 90,
        "data.in_channels": 3,
    }
    assert len(manifest["source"]) == 64
    shards = [shard for split in manifest["splits"].values() for shard in split]
    lines = "".join(f"{shard['sha256']}  {shard['name']}\n" for shard in shards)
    subprocess.run(["sha256sum", "--check", "--strict"], input=lines, text=True, cwd=tmp_path / "shards", check=True)
    assert sum(shard["bytes"] for shard in shards) == sum(split["bytes"] for split in result["splits"].values())


def test_a_second_run_keeps_what_is_right_and_mends_what_is_not(images: Path, tmp_path: Path) -> None:
    output = tmp_path / "shards"
    assert prepare(images, output)["kept"] == 0
    before = content(output)
    damaged, lost = output / "train-000001.tar", index_path(output / "train-000002.tar")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*0.tar")}
    assert prepare(images, output)["kept"] == 6
    assert content(output) == before
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("resize.side=20", "resize.side=16, not 20"),
        ("resize.quality=80", "resize.quality=90, not 80"),
        ("resize.side=null", "resize.side=16, not null"),
        ("samples_per_shard=5", "samples_per_shard=4, not 5"),
    ],
)
def test_other_settings_are_refused_and_lose_nothing(override: str, message: str, images: Path, tmp_path: Path) -> None:
    prepare(images, tmp_path / "shards", "resize.side=16")
    before = content(tmp_path / "shards")
    with pytest.raises(UserError, match=message):
        prepare(images, tmp_path / "shards", "resize.side=16", override)
    assert content(tmp_path / "shards") == before


def test_other_images_are_refused_and_lose_nothing(images: Path, tmp_path: Path) -> None:
    prepare(images, tmp_path / "shards")
    before = content(tmp_path / "shards")
    (images / "val" / "ant" / "000.jpg").rename(images / "val" / "ant" / "zzz.jpg")
    with pytest.raises(UserError, match="holds shards of other images or classes"):
        prepare(images, tmp_path / "shards")
    assert content(tmp_path / "shards") == before


def test_a_folder_with_other_files_is_refused(images: Path) -> None:
    with pytest.raises(UserError, match=r"output=.*images: holds other files"):
        prepare(images, images)
    assert sorted(path.name for path in images.iterdir()) == ["train", "val"]


def test_an_image_that_changed_under_its_name_is_refused_once_all_shards_are_finished(
    images: Path, tmp_path: Path
) -> None:
    prepare(images, tmp_path / "shards")
    before = content(tmp_path / "shards")
    path = images / "val" / "ant" / "000.jpg"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(UserError, match="holds shards of other images or classes"):
        prepare(images, tmp_path / "shards")
    assert content(tmp_path / "shards") == before


def test_images_may_change_while_no_shard_is_finished(images: Path, tmp_path: Path) -> None:
    bad = images / "train" / "ant" / "000.jpg"
    bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"ant/000\.jpg: not an image"):
        prepare(images, tmp_path / "shards", "samples_per_shard=100", "threads=1")
    bad.unlink()
    assert prepare(images, tmp_path / "shards", "resize.side=16")["splits"]["train"]["samples"] == 14
    (images / "train" / "ant" / "001.jpg").unlink()
    with pytest.raises(UserError, match="other images or classes; delete it first, or give another folder"):
        prepare(images, tmp_path / "shards", "resize.side=16")


def test_skipping_is_refused_for_shards_hold_every_image(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.on_error=skip: .*`convatlas data verify` lists"):
        prepare(images, tmp_path / "shards", "data.on_error=skip")
    assert not (tmp_path / "shards").exists()


def test_names_of_classes_keep_their_spaces(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", [" ant", "dog "], per_class=1, size=8)
    prepare(root, tmp_path / "shards")
    assert image_folder(3, root=str(tmp_path / "shards")).class_list.names == (" ant", "dog ")


def test_a_small_data_set_is_in_shards_for_several_cores(tmp_path: Path) -> None:
    overrides = ["data=fashion_mnist_sample", f"output={tmp_path / 'shards'}", "data.name=renamed"]
    result = data_prepare(compose("data_prepare", overrides))
    assert result["splits"]["train"]["shards"] == 5
    assert "augment" not in result["next"]  # nobody knows what data=renamed would take


@pytest.mark.parametrize(
    ("data", "augment"),
    [("cifar10", "pad_crop_flip"), ("fashion_mnist", "flip"), ("imagenette", "random_resized_crop")],
)
def test_the_next_command_has_the_augmentation_of_the_data_set(data: str, augment: str) -> None:
    composed = plain(compose("data_prepare", [f"data={data}", "output=x"]))["data"]
    assert f" augment={augment} " in _next_command(composed, Path("shards"))


def test_two_at_once_are_refused(images: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with (tmp_path / "shards" / ".lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process prepares shards there"):
            prepare(images, tmp_path / "shards")
        fcntl.flock(lock, fcntl.LOCK_UN)
        prepare(images, tmp_path / "shards")
        assert (tmp_path / "shards" / ".lock").stat().st_ino == os.fstat(lock.fileno()).st_ino


def test_missing_images_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no such folder"):
        prepare(tmp_path / "nowhere", tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_written_is_named(images: Path) -> None:
    with pytest.raises(UserError, match="output=/dev/null/shards: cannot be written"):
        prepare(images, Path("/dev/null/shards"))


@pytest.mark.parametrize("override", ["resize.side=null", "resize.side=16"])
def test_what_is_no_image_is_named_and_the_rest_goes_on_afterwards(override: str, images: Path, tmp_path: Path) -> None:
    bad = images / "train" / "cat" / "004.jpg"
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cat/004\.jpg: not an image"):
        prepare(images, tmp_path / "shards", "threads=1", override)
    with pytest.raises(UserError, match="not written yet"):
        image_folder(3, root=str(tmp_path / "shards"))
    bad.write_bytes(good)
    assert prepare(images, tmp_path / "shards", override)["kept"] == 3
    assert image_folder(3, root=str(tmp_path / "shards")).train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_a_truncated_image_that_is_to_be_shrunk_is_named(images: Path, tmp_path: Path) -> None:
    bad = images / "train" / "bee" / "001.jpg"
    os.truncate(bad, bad.stat().st_size - 50)
    with pytest.raises(UserError, match=r"bee/001\.jpg: truncated"):
        prepare(images, tmp_path / "shards", "resize.side=16")


KILLED = """
import os, signal, sys, threading
from convatlas.config.composition import compose
from convatlas.data.tools import prepare
from pipelines.data_prepare import data_prepare

write_shard, write_manifest, begun = prepare.write_shard, prepare.Manifest.write, []

def write_six(*arguments):
    begun.append(arguments)
    if len(begun) > 6:
        threading.Event().wait()
    write_shard(*arguments)

def kill_at_three(self, output):
    recorded = sum(shard.sha256 is not None for shards in self.splits.values() for shard in shards)
    write_manifest(self, output)
    if recorded >= 3:
        os.kill(os.getpid(), signal.SIGKILL)

prepare.write_shard, prepare.Manifest.write = write_six, kill_at_three
data_prepare(compose("data_prepare", sys.argv[1:]))
"""
"""A preparation that is killed when three shards are on record and others are under way."""


def test_a_kill_costs_no_finished_shard(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", CLASSES, per_class=40, size=96)
    output, whole = tmp_path / "killed", tmp_path / "whole"
    overrides = ["data=imagefolder", f"data.root={root}", "resize.side=90", "samples_per_shard=2", "threads=2"]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *overrides, f"output={output}"], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))["splits"]
    finished = [shard["name"] for shards in manifest.values() for shard in shards if shard["sha256"]]
    assert 3 <= len(finished) <= 6
    times = {name: (output / name).stat().st_mtime_ns for name in finished}
    with pytest.raises(UserError, match="not written yet"):
        image_folder(3, root=str(output))
    assert data_prepare(compose("data_prepare", [*overrides, f"output={output}"]))["kept"] == len(finished)
    assert {name: (output / name).stat().st_mtime_ns for name in finished} == times
    data_prepare(compose("data_prepare", [*overrides, f"output={whole}"]))
    assert content(output) == content(whole)


def test_prepared_shards_can_be_prepared_again(images: Path, tmp_path: Path) -> None:
    prepare(images, tmp_path / "whole")
    prepare(tmp_path / "whole", tmp_path / "small", "resize.side=16")
    prepare(images, tmp_path / "direct", "resize.side=16")
    assert_same(
        image_folder(3, root=str(tmp_path / "small")).train, image_folder(3, root=str(tmp_path / "direct")).train
    )


def test_the_command_says_what_it_wrote_and_what_comes_next(convatlas: Command, images: Path, tmp_path: Path) -> None:
    command = ["data", "prepare", "data=imagefolder", f"data.root={images}", "output=shards"]
    done = convatlas(*command)
    assert done.returncode == 0, done.stderr
    assert "train      15       1" in done.stdout
    assert "next       convatlas check data=imagefolder data.root=shards" in done.stdout
    assert "prepare  30/30" in done.stderr
    again = convatlas(*command, "format=json")
    assert json.loads(again.stdout)["kept"] == 2
    assert sorted(content(tmp_path / "shards")) == [
        "classes.txt",
        "manifest.json",
        "test-000000.index.npy",
        "test-000000.tar",
        "train-000000.index.npy",
        "train-000000.tar",
    ]
    refused = convatlas(*command, "resize.side=8")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("convatlas: error: output=shards: holds shards of resize.side=null, not 8")


@pytest.mark.parametrize(
    "override", ["resize.side=0", "resize.quality=101", "resize.which=width", "samples_per_shard=0", "threads=0"]
)
def test_a_wrong_value_is_named_before_anything_happens(override: str) -> None:
    config = compose("data_prepare", ["data=imagefolder", "data.root=x", "output=y", override])
    with pytest.raises(UserError, match=f"{override}: expected"):
        check_config(config, TYPES)


def test_shards_train_as_their_folder_does(images: Path, tmp_path: Path) -> None:
    prepare(images, tmp_path / "shards")
    modules = [
        instantiate(
            compose(
                "train", ["data=imagefolder", f"data.root={root}", "data.val_fraction=0.2", "data.image_size=16"]
            ).data
        )
        for root in (images, tmp_path / "shards")
    ]
    assert isinstance(modules[1].sources["train"], ShardSource)
    assert [modules[0].num_samples(split) for split in ("train", "val", "test")] == [12, 3, 15]
    for split in ("train", "val", "test"):
        assert np.array_equal(modules[0].indices[split], modules[1].indices[split])
        assert torch.equal(modules[0].load(split, 1), modules[1].load(split, 1))
