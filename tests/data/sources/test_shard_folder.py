"""A folder of shards stands for the folder of images; what is wrong with it is said in one line."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from convatlas.config.composition import compose
from convatlas.data.classification.datasets import image_folder
from convatlas.data.sources.shards import ENTRY, ShardSample, ShardSource, index_path, write_shard
from convatlas.errors import NewerFormatError, UserError
from pipelines.data_index import data_index
from pipelines.data_prepare import data_prepare
from tests.fixtures import write_image_folder

CLASSES = ["ant", "bee"]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = write_image_folder(tmp_path / "images", CLASSES, per_class=3, size=8)
    overrides = ["data=imagefolder", f"data.root={root}", f"output={tmp_path / 'shards'}", "samples_per_shard=4"]
    return Path(data_prepare(compose("data_prepare", overrides))["output"])


MANIFESTS = {
    "splits as a list": {"splits": []},
    "a split as a number": {"splits": {"train": 5}},
    "a size as text": {"splits": {"train": [{"name": "train-000000.tar", "samples": 4, "bytes": "much"}]}},
    "a shard elsewhere": {"splits": {"train": [{"name": "../train-000000.tar", "samples": 4}]}},
    "settings as a number": {"settings": 5},
    "digests as a list": {"images": [1]},
    "half a surrogate pair": {"source": "\ud800"},
}
"""Entries of other types than in a manifest of ours."""


def break_shards(root: Path, problem: str) -> None:
    if problem == "no index":
        index_path(root / "train-000001.tar").unlink()
    elif problem == "damaged index":
        index_path(root / "train-000001.tar").write_bytes(b"no array")
    elif problem == "strange index":
        np.save(index_path(root / "train-000001.tar"), np.arange(3))
    elif problem == "archive for an index":
        torch.save({"offset": torch.zeros(3)}, index_path(root / "train-000001.tar"))
    elif problem == "huge index":
        with index_path(root / "train-000001.tar").open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(ENTRY), "fortran_order": False, "shape": (10**30,)}
            np.lib.format.write_array_header_1_0(file, header)
    elif problem == "negative index":
        np.save(index_path(root / "train-000001.tar"), np.array([(512, 9, -1)], ENTRY))
    elif problem == "truncated":
        os.truncate(root / "train-000001.tar", 1024)
    elif problem == "mixture":
        (root / "val" / "ant").mkdir(parents=True)
    elif problem == "lost":
        (root / "train-000000.tar").unlink()
    elif problem == "no classes":
        (root / "classes.txt").unlink()
    elif problem == "few classes":
        (root / "classes.txt").write_text("ant\n", encoding="utf-8")
    elif problem == "damaged manifest":
        (root / "manifest.json").write_text('{"splits": 3}', encoding="utf-8")
    elif problem in MANIFESTS:
        content = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        (root / "manifest.json").write_text(json.dumps(content | MANIFESTS[problem]), encoding="utf-8")
    elif problem == "nested manifest":
        (root / "manifest.json").write_text('{"splits": ' * 100_000, encoding="utf-8")
    elif problem == "stranger":
        shutil.copy(root / "train-000000.tar", root / "train-000007.tar")
        shutil.copy(index_path(root / "train-000000.tar"), index_path(root / "train-000007.tar"))
    elif problem == "strange split":
        (root / "val-000000.tar").touch()


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("no index", r"train-000001\.index\.npy: missing; expected .*`convatlas data index root=.*shards` writes it"),
        ("damaged index", r"train-000001\.index\.npy: not an offset index"),
        ("strange index", r"train-000001\.index\.npy: not an offset index"),
        ("archive for an index", r"train-000001\.index\.npy: not an offset index"),
        ("huge index", r"train-000001\.index\.npy: not an offset index"),
        ("negative index", r"train-000001\.index\.npy: not an offset index; .*, none below 0"),
        ("truncated", r"train-000001\.tar: truncated or damaged: 1,024 bytes, expected 10,240"),
        ("mixture", r"data\.root=.*: holds shards and a folder val/"),
        ("lost", r"train-000000\.tar: not written yet, or lost; run the same `convatlas data prepare` again"),
        ("no classes", r"classes\.txt: missing; expected the class names of the shards"),
        ("few classes", r"classes\.txt: 1 classes, fewer than the train shards have"),
        ("damaged manifest", r"manifest\.json: damaged"),
        *((problem, r"manifest\.json: damaged[;,] expected ") for problem in MANIFESTS),
        ("nested manifest", r"manifest\.json: damaged, expected a JSON object"),
        ("stranger", r"train-000007\.tar: not among the shards that manifest\.json lists; expected it in a folder of"),
        ("strange split", r"val-000000\.tar: not among the shards that manifest\.json lists"),
    ],
)
def test_what_is_wrong_with_shards_is_named(problem: str, message: str, shards: Path) -> None:
    break_shards(shards, problem)
    with pytest.raises(UserError, match=message) as caught:
        image_folder(3, root=str(shards))
    assert "\n" not in str(caught.value)


def test_a_truncated_shard_is_found_by_its_index_alone(shards: Path) -> None:
    (shards / "manifest.json").unlink()
    os.truncate(shards / "train-000001.tar", 1024)
    with pytest.raises(UserError, match=r"train-000001\.tar: truncated: 1,024 bytes, expected at least"):
        image_folder(3, root=str(shards))


def test_shards_of_one_split_alone_are_refused(shards: Path) -> None:
    (shards / "manifest.json").unlink()
    for shard in shards.glob("test-*"):
        shard.unlink()
    with pytest.raises(UserError, match=r"no val-\*\.tar there"):
        image_folder(3, root=str(shards))


def test_the_shards_of_a_folder_of_ones_own_need_no_list(shards: Path) -> None:
    (shards / "manifest.json").unlink()
    break_shards(shards, "stranger")
    assert image_folder(3, root=str(shards)).train.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1]


def test_val_shards_are_reported_where_there_are_no_test_shards(shards: Path) -> None:
    (shards / "manifest.json").unlink()
    for shard in sorted(shards.glob("test-*")):
        shard.rename(shard.with_name(shard.name.replace("test", "val")))
    found = image_folder(3, root=str(shards))
    assert found.val is None
    assert found.test.path(0) == "val-000000.tar/00000000.jpg"


def test_a_hundred_shards_keep_no_file_open(tmp_path: Path) -> None:
    shards = [tmp_path / f"{number}.tar" for number in range(100)]
    for number, shard in enumerate(shards):
        write_shard(shard, [ShardSample("0.png", b"%d" % number, number)])
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = ShardSource(shards, 3)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert source.encoded(99) == b"99"
    assert source.labels[99] == 99


def test_tar_lists_the_members_and_unpacks_them(shards: Path, tmp_path: Path) -> None:
    def tar(*arguments: str) -> str:
        return subprocess.run(["tar", *arguments], capture_output=True, text=True, check=True).stdout

    shard = str(shards / "train-000001.tar")
    assert tar("tf", shard).split() == ["00000004.jpg", "00000004.cls", "00000005.jpg", "00000005.cls"]
    tar("xf", shard, "-C", str(tmp_path))
    assert (tmp_path / "00000005.jpg").read_bytes() == (tmp_path / "images/train/bee/002.jpg").read_bytes()
    assert (tmp_path / "00000005.cls").read_text(encoding="utf-8") == "1"


def test_webdataset_reads_our_shards(shards: Path) -> None:
    import webdataset

    ours = image_folder(3, root=str(shards)).train
    urls = [str(shard) for shard in sorted(shards.glob("train-*.tar"))]
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [int(sample["cls"]) for sample in theirs] == ours.labels.tolist()
    assert [sample["jpg"] for sample in theirs] == [ours.encoded(index) for index in range(len(theirs))]
    decoded = webdataset.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("jpg", "cls")
    assert [(image.size, label) for image, label in decoded] == [((16, 8), label) for label in ours.labels]


def test_we_read_the_shards_of_webdataset_once_they_are_indexed(tmp_path: Path) -> None:
    import webdataset

    images = sorted((write_image_folder(tmp_path / "images", CLASSES, per_class=2, size=8) / "train").rglob("*.jpg"))
    root = tmp_path / "theirs"
    root.mkdir()
    (root / "classes.txt").write_text("ant\nbee\n", encoding="utf-8")
    for split in ("train", "val"):
        with webdataset.TarWriter(str(root / f"{split}-000000.tar")) as writer:
            for number, path in enumerate(images):
                key = f"{path.parent.name}/{number}"
                writer.write({"__key__": key, "jpg": path.read_bytes(), "cls": number // 2, "json": {"x": 1}})
    with pytest.raises(UserError, match="data index root="):
        image_folder(3, root=str(root))
    indexed = data_index(compose("data_index", [f"root={root}"]))["shards"]
    assert [row["samples"] for row in indexed] == [4, 4]
    found = image_folder(3, root=str(root)).train
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert [found.encoded(index) for index in range(4)] == [path.read_bytes() for path in images]
    assert found.path(3) == "train-000000.tar/bee/3.jpg"
    assert data_index(compose("data_index", [f"root={root}"])) == {"shards": []}


def write_members(path: Path, *names: str, content: bytes = b"1") -> None:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_hidden_members_are_left_out_of_an_index_and_every_known_suffix_counts(tmp_path: Path) -> None:
    hidden = ("./._0.jpg", "./._0.cls", "__MACOSX/0.jpg", ".thumbnails/1.jpg")
    write_members(tmp_path / "train-0.tar", *hidden, "./0.jpg", "./0.cls", "./1.JFIF", "./1.cls")
    assert data_index(compose("data_index", [f"root={tmp_path}"]))["shards"][0]["samples"] == 2
    source = ShardSource([tmp_path / "train-0.tar"], 3)
    assert [source.path(index) for index in range(2)] == ["train-0.tar/./0.jpg", "train-0.tar/./1.JFIF"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("0.jpg", "1.jpg", "1.cls"), "2 images and 1 classes; expected an image and a .cls"),
        (("0.txt",), "0 images and 0 classes"),
        ((), "0 images and 0 classes"),
        (("a/0.jpg", "a/0.mask.png", "a/0.cls"), r"train-0\.tar: a/0\.mask\.png is a second image of its sample"),
        (("0.jpg", "0.cls", "0.cls"), r"train-0\.tar: 0\.cls is a second class of its sample"),
    ],
)
def test_samples_without_class_or_with_two_are_refused(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    write_members(tmp_path / "train-0.tar", *names)
    with pytest.raises(UserError, match=message):
        data_index(compose("data_index", [f"root={tmp_path}"]))
    assert not index_path(tmp_path / "train-0.tar").exists()


@pytest.mark.parametrize("label", [b"-1", b"ant", b""])
def test_a_class_that_is_no_number_from_0_is_named(label: bytes, tmp_path: Path) -> None:
    write_members(tmp_path / "train-0.tar", "0.jpg", "0.cls", content=label)
    with pytest.raises(UserError, match=rf"train-0\.tar: 0\.cls is {label!r}; expected the class as digits, from 0"):
        data_index(compose("data_index", [f"root={tmp_path}"]))


def test_a_manifest_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": 7, "splits": "of another kind"}', encoding="utf-8")
    message = r"manifest\.json: written by a newer ConvAtlas; its format is 7, this version reads up to 1$"
    with pytest.raises(NewerFormatError, match=message):
        image_folder(3, root=str(tmp_path))


def test_what_is_no_tar_cannot_be_indexed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.tar there"):
        data_index(compose("data_index", [f"root={tmp_path}"]))
    (tmp_path / "train-0.tar").write_bytes(b"no tar" * 1000)
    with pytest.raises(UserError, match=r"train-0\.tar: cannot be indexed"):
        data_index(compose("data_index", [f"root={tmp_path}"]))


def test_an_index_that_is_written_anew_is_the_one_that_was_lost(shards: Path) -> None:
    index = index_path(shards / "train-000001.tar")
    content = index.read_bytes()
    index.unlink()
    data_index(compose("data_index", [f"root={shards}"]))
    assert index.read_bytes() == content
    assert json.loads((shards / "manifest.json").read_text(encoding="utf-8"))["splits"]["train"][1]["samples"] == 2
