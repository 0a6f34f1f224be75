import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import write_png

from convatlas.config.composition import compose
from convatlas.errors import UserError
from convatlas.training.checkpoint_io import KEY, AtomicCheckpointIO, read_checkpoint
from pipelines.predict import predict, show
from tests.conftest import FolderRun, read_json


def run(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    return predict(compose("predict", [*overrides, f"output={tmp_path / 'out'}"]))


def test_a_folder_becomes_a_table_and_a_page(trained: dict[str, Any], tmp_path: Path) -> None:
    images = Path(trained["run"]) / "evaluation" / "test"
    result = run(tmp_path, f"checkpoint={trained['run']}", f"images={images}")
    details = {item["image"]: item for item in read_json(images.parent / "test.json")["samples"]}
    rows = {Path(row["path"]).name: row for row in result["predictions"]}
    classes = Path(trained["run"], "class_list.txt").read_text(encoding="utf-8").splitlines()
    for image, item in details.items():  # the same as in the evaluation, from the picture alone
        row = rows[Path(image).name]
        assert row["prediction"] == classes[item["prediction"]]
        assert row["confidence"] == pytest.approx(item["confidence"], abs=1e-4)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert read_json(tmp_path / "out" / "predictions.json") == result["predictions"]
    assert (tmp_path / "out" / "predictions.html").stat().st_size > 1000


def test_one_image_and_a_glob(folder_run: FolderRun, tmp_path: Path) -> None:
    image = sorted((folder_run.root / "val" / "ant").iterdir())[0]
    one = run(tmp_path, f"checkpoint={folder_run.run}", f"images={image}")
    assert [row["path"] for row in one["predictions"]] == [str(image)]
    assert len(one["predictions"][0]["top"]) == 3
    assert sum(item["probability"] for item in one["predictions"][0]["top"]) == pytest.approx(1, abs=1e-4)
    several = run(tmp_path, f"checkpoint={folder_run.run}", f"images='{folder_run.root}/val/*/*'", "batch_size=4")
    assert len(several["predictions"]) == len(list((folder_run.root / "val").glob("*/*")))
    (same,) = (row for row in several["predictions"] if row["path"] == str(image))
    assert same["confidence"] == pytest.approx(one["predictions"][0]["confidence"], abs=1e-4)  # batches round otherwise


def test_a_grey_network_sees_the_grey_values_of_pictures_in_colour(trained: dict[str, Any], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "colour.png")
    Image.fromarray(pixels).convert("L").save(tmp_path / "images" / "grey.png")
    colour, grey = run(tmp_path, f"checkpoint={trained['run']}", f"images={tmp_path / 'images'}")["predictions"]
    assert colour["top"] == grey["top"]


@pytest.mark.parametrize(("network", "data"), [(1, 3), (3, 1)])
def test_a_network_of_other_channels_than_its_data_is_refused(
    network: int, data: int, trained: dict[str, Any], folder_run: FolderRun, tmp_path: Path
) -> None:
    path, image = tmp_path / "x.ckpt", tmp_path / "x.png"
    Image.new("RGB", (32, 32)).save(image)
    checkpoint = read_checkpoint(Path(trained["run"] if network == 1 else folder_run.run) / "checkpoints" / "best.ckpt")
    checkpoint[KEY]["config"]["data"] |= {"in_channels": data, "mean": [0.5] * data, "std": [0.5] * data}
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    with pytest.raises(
        UserError, match=rf"x\.ckpt: damaged: its network takes {network} channels; expected as many in"
    ):
        run(tmp_path, f"checkpoint={path}", f"images={image}")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_read_by_the_rule_of_training(
    folder_run: FolderRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    source = sorted((folder_run.root / "val" / "ant").iterdir())[0]
    for name in ("b.jfif", "sub/a.JPG", "x.jpg/c.jpe", "sub/._a.jpg", ".ipynb_checkpoints/a.jpg", "d.heic"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(source.read_bytes())
    elsewhere.mkdir()
    (elsewhere / "e.jpg").write_bytes(source.read_bytes())
    (photos / "more").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(photos)
    result = run(tmp_path, f"checkpoint={folder_run.run}", f"images={photos}")
    names = [Path(row["path"]).relative_to(photos).as_posix() for row in result["predictions"]]
    assert names == ["b.jfif", "more/e.jpg", "sub/a.JPG", "x.jpg/c.jpe"]
    assert result["passed_over"] == {".heic": 1}
    show(result)
    assert "1 file passed over: 1 .heic\n" in capsys.readouterr().out


def changed_checkpoint(run: Path, path: Path, **data: Any) -> Path:
    """A checkpoint of the run with other settings of its data."""
    checkpoint = read_checkpoint(run / "checkpoints" / "best.ckpt")
    checkpoint[KEY]["config"]["data"] |= data
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    return path


def test_a_network_sees_transparent_images_on_the_background_of_its_training(
    folder_run: FolderRun, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    alpha = torch.arange(32 * 32, dtype=torch.float).div(4).to(torch.uint8).view(1, 32, 32)
    write_png(alpha.expand(3, -1, -1).contiguous(), str(photos / "flat.png"))
    logo = torch.cat([torch.full((3, 32, 32), 255, dtype=torch.uint8), alpha])
    Image.fromarray(logo.permute(1, 2, 0).numpy()).save(photos / "logo.png")
    black = changed_checkpoint(folder_run.run, tmp_path / "black.ckpt", background=[0, 0, 0])
    flat, shown = run(tmp_path, f"checkpoint={black}", f"images={photos}")["predictions"]
    assert shown["top"] == flat["top"]
    _, ignored = run(tmp_path, f"checkpoint={folder_run.run}", f"images={photos}")["predictions"]
    assert ignored["top"] != shown["top"]


def test_a_checkpoint_whose_pixels_were_not_normalised_is_refused(folder_run: FolderRun, tmp_path: Path) -> None:
    path = changed_checkpoint(folder_run.run, tmp_path / "old.ckpt", std=[58.4, 57.1, 57.4])
    with pytest.raises(UserError, match=r"old\.ckpt: its data\.std=\[58\.4, 57\.1, 57\.4\]: .*divide by 255"):
        run(tmp_path, f"checkpoint={path}", f"images={folder_run.root}")


def test_nothing_found_is_named(folder_run: FolderRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="images=/nowhere: no image there"):
        run(tmp_path, f"checkpoint={folder_run.run}", "images=/nowhere")


def test_a_broken_image_is_named_and_nothing_is_written(folder_run: FolderRun, tmp_path: Path) -> None:
    write_png(torch.zeros(3, 8, 8, dtype=torch.uint8), str(tmp_path / "a.png"))
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(UserError, match=r"b\.jpg"):
        run(tmp_path, f"checkpoint={folder_run.run}", f"images={tmp_path}")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_place_of_the_output_is_named(folder_run: FolderRun, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"output=.*cannot be written"):
        run(tmp_path, f"checkpoint={folder_run.run}", f"images={folder_run.root / 'val'}")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_pictures_are_drawn_only_for_the_images_of_the_page(
    folder_run: FolderRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pipelines.predict", "convatlas.report.views.predictions"):
        monkeypatch.setattr(f"{module}.MAX_IMAGES", 2)
    drawn: list[torch.Tensor] = []

    def draw(image: torch.Tensor) -> bytes:
        drawn.append(image)
        return b""

    monkeypatch.setattr("pipelines.predict.thumbnail_png", draw)
    result = run(tmp_path, f"checkpoint={folder_run.run}", f"images='{folder_run.root}/val/*/*'")
    assert len(result["predictions"]) > len(drawn) == 2
