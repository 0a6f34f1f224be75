"""`convatlas data show` and `convatlas data bench`: pictures and figures of the training's own loader."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convatlas.config.composition import compose
from convatlas.data.tools.bench import STAGES
from convatlas.errors import UserError
from pipelines import data_bench as bench_pipeline
from pipelines.data_bench import data_bench
from pipelines.data_show import CELL, LABEL, MARGIN, data_show
from tests.conftest import Command, read_json
from tests.fixtures import write_image_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), ["ant", "bee"], per_class=12, size=40)


def settings(root: Path) -> list[str]:
    return ["data=imagefolder", f"data.root={root}", "data.image_size=32", "data.resize=36", "data.global_batch_size=8"]


def cell(picture: Image.Image, row: int, column: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    left, top = MARGIN + column * (CELL + MARGIN), LABEL + MARGIN + row * (CELL + MARGIN + LABEL)
    return np.asarray(picture.crop((left, top, left + CELL, top + CELL))).astype(np.int64)


def test_the_grid_shows_each_sample_as_stored_and_in_each_epoch(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "grid.png"
    result = data_show(compose("data_show", [*settings(root), f"output={output}", "samples=4", "epochs=3"]))
    assert [Path(sample["path"]).parent.name for sample in result["samples"]] == ["ant", "ant", "bee", "bee"]
    assert [sample["class"] for sample in result["samples"]] == ["ant", "ant", "bee", "bee"]
    picture = Image.open(output)
    assert picture.size == (MARGIN + 4 * (CELL + MARGIN), LABEL + MARGIN + 4 * (CELL + MARGIN + LABEL))
    for row, channel in enumerate([0, 0, 1, 1]):  # a class has a colour of its own
        for column in range(4):
            assert cell(picture, row, column)[20:100, 20:100].mean(axis=(0, 1)).argmax() == channel
    assert not np.array_equal(cell(picture, 0, 1), cell(picture, 0, 2))


def test_the_grid_shows_nothing_but_the_images_where_nothing_is_augmented(root: Path, tmp_path: Path) -> None:
    overrides = [*settings(root), "augment=none", f"output={tmp_path / 'grid.png'}", "samples=2", "epochs=2"]
    data_show(compose("data_show", overrides))
    picture = Image.open(tmp_path / "grid.png")
    assert np.array_equal(cell(picture, 1, 1), cell(picture, 1, 2))


def test_a_grid_that_cannot_be_written_is_named(root: Path, tmp_path: Path) -> None:
    for output in (tmp_path / "nowhere" / "grid.png", tmp_path / "grid.nothing"):
        with pytest.raises(UserError, match=f"output={output}: cannot be written"):
            data_show(compose("data_show", [*settings(root), f"output={output}"]))


def test_the_bench_counts_images_and_says_what_the_model_needs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [*settings(root), "model=resnet20_cifar", "batches=5", "stage_images=10", "model_steps=1"]
    result = data_bench(compose("data_bench", overrides))
    assert result["images"] == 40  # five batches, over more than one epoch of 22 images
    assert result["images_per_second"] > 0
    assert set(result["stages"]) == {*STAGES, "collate"}
    assert all(milliseconds >= 0 for milliseconds in result["stages"].values())
    assert result["stages"]["decode"] > 0
    assert result["cpu_ms_per_image"] > 0
    bench_pipeline.show({**result, "images_per_second": 10.0, "model_images_per_second": 1000.0})
    assert "the model waits for data" in capsys.readouterr().out
    bench_pipeline.show({**result, "images_per_second": 1000.0, "model_images_per_second": 10.0})
    assert "100.0 times as fast as the model" in capsys.readouterr().out


def test_the_bench_without_a_model_is_of_the_loader(convatlas: Command, tmp_path: Path) -> None:
    done = convatlas("data", "bench", "model_steps=0", "batches=2", "stage_images=20", "format=json")
    (tmp_path / "result.json").write_text(done.stdout, encoding="utf-8")
    result = read_json(tmp_path / "result.json")
    assert result["model_images_per_second"] is None
    assert {"images_per_second", "cpu_ms_per_image"} <= set(result)
