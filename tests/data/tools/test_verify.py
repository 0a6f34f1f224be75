"""Every fault of a data set is found under its kind, in folders and shards alike; a clean one is clean."""

import io
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from convatlas.data.class_list import ClassList
from convatlas.data.classification.datasets import image_folder
from convatlas.data.sources.images import ArraySource, LabelledSource
from convatlas.data.sources.shards import ShardSample, ShardSource, write_shard
from convatlas.data.tools.statistics import class_balance, statistics
from convatlas.data.tools.verify import Record, content_findings, verify_source
from tests.fixtures import write_faulty_folder, write_image_folder

SETS = ("contradiction", "leakage", "duplicate")
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def statistics_of(sources: dict[str, LabelledSource], class_list: ClassList, threads: int = 2) -> dict[str, Any]:
    records = {split: verify_source(source, 3, threads, lambda count: None) for split, source in sources.items()}
    return statistics(sources, records, class_list, image_size=48)


def of_folder(root: Path, threads: int = 2) -> dict[str, Any]:
    found = image_folder(3, root=str(root))
    return statistics_of({"train": found.train, "test": found.test}, found.class_list, threads)


def found_paths(result: dict[str, Any]) -> dict[str, list[str]]:
    paths = defaultdict(list)
    for finding in result["findings"]:
        paths[finding["kind"]].append(finding["path"])
    for equal in result["equal_images"]:
        for kind in equal["kinds"]:
            paths[kind] += [image["path"] for image in equal["images"]]
    return dict(paths)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("threads", [1, 3])
def test_each_fault_of_a_folder_is_found_under_its_kind(threads: int, tmp_path: Path) -> None:
    expected = write_faulty_folder(tmp_path)
    result = of_folder(tmp_path, threads)
    paths = {kind: [path.removeprefix(f"{tmp_path}/") for path in found] for kind, found in found_paths(result).items()}
    expected["duplicate"] += expected["contradiction"]  # these two lie in one split as well
    assert {kind: sorted(found) for kind, found in paths.items()} == {k: sorted(v) for k, v in expected.items()}
    assert not result["ok"]
    errors = {finding["kind"] for finding in result["findings"] if finding["severity"] == "error"}
    assert errors == {"empty", "not_an_image", "damaged", "bomb", "32_bit", "unreadable"}
    assert result["kinds"]["bomb"]["severity"] == "error"
    assert result["kinds"]["cmyk"]["severity"] == "notice"
    assert result["verdict"].startswith("Training would stop: 6 of 38 images cannot be decoded;")


def test_equal_bytes_and_equal_pixels_are_told_apart(tmp_path: Path) -> None:
    write_faulty_folder(tmp_path)
    sets = of_folder(tmp_path)["equal_images"]
    assert [(equal["kinds"], equal["same"]) for equal in sets] == [
        (["contradiction", "duplicate"], "pixels"),
        (["leakage"], "bytes"),
        (["duplicate"], "bytes"),
    ]


def test_shards_with_the_same_images_have_the_same_faults(tmp_path: Path) -> None:
    expected = write_faulty_folder(tmp_path / "folder")
    (tmp_path / "folder" / expected["unreadable"][0]).unlink()
    found = image_folder(3, root=str(tmp_path / "folder"))
    sources: dict[str, LabelledSource] = {}
    for split, source in (("train", found.train), ("test", found.test)):
        samples = [
            ShardSample(f"{index:08d}.jpg", source.encoded(index), int(label))
            for index, label in enumerate(source.labels)
        ]
        write_shard(tmp_path / f"{split}.tar", samples)
        sources[split] = ShardSource([tmp_path / f"{split}.tar"], 3)
    result = statistics_of(sources, found.class_list)
    counts = {kind: facts["count"] for kind, facts in of_folder(tmp_path / "folder")["kinds"].items()}
    counts["mislabelled"] = 3  # in the shard, the other PNGs are named .jpg too
    assert {kind: facts["count"] for kind, facts in result["kinds"].items()} == counts
    assert found_paths(result)["empty"] == ["train.tar/00000007.jpg"]


def test_transparent_images_and_files_passed_over_are_told(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=2, size=40)
    logo = Image.fromarray(np.dstack([np.zeros((40, 40, 3), np.uint8), np.full((40, 40), 255, np.uint8)]))
    logo.putpixel((3, 3), (0, 0, 0, 254))
    logo.save(root / "train" / "a" / "logo.png")
    found = image_folder(3, root=str(root))
    records = {"train": verify_source(found.train, 3, 1, lambda count: None)}
    result = statistics({"train": found.train}, records, found.class_list, 48, {".heic": 2, ".txt": 1})
    assert found_paths(result) == {"transparent": [str(root / "train" / "a" / "logo.png")]}
    assert result["kinds"]["transparent"]["severity"] == "notice"
    assert result["findings"][0]["detail"] == "0.1% of the pixels are not opaque"
    assert result["verdict"].endswith("can be decoded. 3 files passed over: 2 .heic, 1 .txt.")
    assert result["passed_over"] == {".heic": 2, ".txt": 1}


def test_a_clean_folder_is_clean(tmp_path: Path) -> None:
    result = of_folder(write_image_folder(tmp_path, ["a", "b"], per_class=3, size=40))
    assert result["ok"]
    assert result["verdict"] == "Training can go on: all 12 images can be decoded."
    assert result["findings"] == result["equal_images"] == []
    assert result["splits"]["train"]["sizes"] == {
        "width": {"min": 48, "median": 48, "max": 48},
        "height": {"min": 40, "median": 40, "max": 40},
        "megapixels": {"min": 0.00192, "median": 0.00192, "max": 0.00192},
        "smaller_than_image_size": 6,
        "short_side": [{"from": 32, "below": 48, "count": 6}],
    }


def test_a_folder_without_one_good_image_has_statistics(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "x.jpg").touch()
    result = of_folder(tmp_path)
    assert result["kinds"]["empty"]["count"] == 2
    assert result["equal_images"] == []  # as nothing, they are equal
    assert result["splits"]["test"]["sizes"] == {"smaller_than_image_size": 0, "short_side": []}


def test_arrays_have_greyscale_and_equal_images() -> None:
    images = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3)).astype(np.uint8)
    images[3] = images[1]
    images[4] = images[4, ..., :1]
    source = ArraySource(images, [0, 0, 0, 2, 2], "arrays")
    result = statistics_of({"train": source}, ClassList(("a", "b", "c")))
    assert result["splits"]["train"]["greyscale"] == 1
    assert found_paths(result) == {kind: ["arrays[1]", "arrays[3]"] for kind in ("contradiction", "duplicate")}
    assert result["verdict"].endswith("Classes without images in train: 1.")


def test_the_balance_is_over_the_classes_that_have_images() -> None:
    balance = class_balance(np.array([0, 0, 0, 2]), ["a", "b", "c"])
    assert balance == {
        "counts": {"a": 3, "b": 0, "c": 1},
        "smallest": {"class": "c", "count": 1},
        "largest": {"class": "a", "count": 3},
        "imbalance": 3.0,
        "missing": ["b"],
    }


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_told_from_eight(format: str) -> None:
    grey = np.arange(64, dtype=np.uint16).reshape(8, 8)
    assert [kind for kind, _ in content_findings(encoded(Image.fromarray(grey), format), "x")] == ["16_bit"]
    assert content_findings(encoded(Image.fromarray(grey.astype(np.uint8)), format), "x") == []


def test_sixteen_bits_are_found_where_pillow_says_rgb() -> None:
    content = b"P6 2 2 65535\n" + bytes(24)
    assert Image.open(io.BytesIO(content)).mode == "RGB"
    assert [kind for kind, _ in content_findings(content, "x.ppm")] == ["16_bit"]


def test_a_photograph_with_a_second_picture_is_no_mislabelled_jpeg() -> None:
    image = Image.new("RGB", (32, 32))
    content = encoded(image, "MPO", save_all=True, append_images=[image])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert content_findings(content, "x.JPG") == []


@pytest.mark.parametrize("marker", [b"\xff\xee\x00\x07Adobe", b"\xff\x01"], ids=["short APP14", "TEM"])
def test_a_header_that_pillow_refuses_stops_nothing(marker: bytes) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (16, 8)), "JPEG", exif=exif)
    content = content[:2] + marker + content[2:]
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(content))
    assert dict(content_findings(content, "x.png")) == {
        "mislabelled": "JPEG named .png",
        "exif_rotated": "orientation 6",
    }


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_data_stop_nothing() -> None:
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"):
        assert content_findings(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif), "x.jpg") == []


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "PPM", "BMP", "GIF"])
def test_no_damage_stops_the_verification(format: str) -> None:
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(generator.integers(0, 255, (16, 16, 3)).astype(np.uint8)), format, exif=exif)
    source: Any = SimpleNamespace(labels=np.zeros(1, np.int64), path=lambda index: "x.jpg", background=None)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(3):  # mostly in the header
            damaged[int(len(damaged) * generator.random() ** 4)] = generator.integers(256)
        source.encoded = lambda index, damaged=bytes(damaged): damaged
        verify_source(source, 3, 1, lambda count: None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_but_the_upright_one_is_told(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.new("RGB", (8, 8)), "PNG", exif=exif)
    assert len(content_findings(content, "x.png")) == (orientation > 1)


def test_the_record_of_a_million_images_takes_41_megabytes() -> None:
    arrays = [value for value in vars(Record(1_000_000)).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == 41_000_000


def test_progress_counts_every_image(tmp_path: Path) -> None:
    source = image_folder(3, root=str(write_image_folder(tmp_path, ["a"], per_class=35, size=8))).train
    counted: list[int] = []
    verify_source(source, 3, 2, counted.append)
    assert counted == [16, 16, 3]
