import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.loader import crop_differences
from benchmarks.loader_peers import LOADERS
from benchmarks.stored_forms import StoredForm, prepare
from convatlas.data.classification.datasets import image_folder


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredForm, StoredForm]:
    generator = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("images")
    for number in range(260):
        path = folder / f"class{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(generator.integers(256, size=(6, 8, 3), dtype=np.uint8))
        coarse.resize((500, 400)).save(path)
    (folder / "class0" / "notes.jpg").write_text("no image", encoding="utf-8")
    return prepare(folder, tmp_path_factory.mktemp("store"), limit=10_000, batches=1)


def test_every_layout_holds_the_same_bytes_in_whole_batches(forms: tuple[StoredForm, StoredForm]) -> None:
    for form in forms:
        files = sorted(path.read_bytes() for path in form.folder.glob("train/*/*"))
        source = image_folder(3, root=str(form.sharded)).train
        assert len(files) == len(source.labels) == 256
        tars = b"".join(shard.read_bytes() for shard in form.shards)
        assert all(encoded in tars for encoded in files)


def test_the_resized_form_has_its_short_side_at_340_pixels(forms: tuple[StoredForm, StoredForm]) -> None:
    sizes = {Image.open(path).size for path in forms[1].folder.glob("train/*/*")}
    assert sizes == {(425, 340)}


@pytest.mark.parametrize("name", ["ours", "torchvision", "torchvision_v2"])
def test_a_loader_delivers_every_image_once(name: str, forms: tuple[StoredForm, StoredForm]) -> None:
    for form in forms:
        assert [tuple(images.shape) for images in LOADERS[name](form, 1)()] == [(256, 3, 224, 224)]


def test_our_crops_differ_little_from_pils(forms: tuple[StoredForm, StoredForm]) -> None:
    assert max(crop_differences(forms[0])) < 1.5


@pytest.mark.full
@pytest.mark.slow
def test_the_benchmark_prints_ratios_and_goals(forms: tuple[StoredForm, StoredForm]) -> None:
    store = forms[0].path.parent
    options = ["--images", str(forms[0].folder), "--store", str(store), "--rounds", "1", "--batches", "1"]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.loader", *options, "--loaders", "ours,torchvision"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert finished.stdout.count("CPU time, ours/torchvision: ") == 2
