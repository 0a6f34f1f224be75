"""Images and masks through the data module: what training and evaluation see, whoever loads it."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image, ImageOps

from convatlas.config.composition import compose
from convatlas.data.batch import IGNORE_INDEX, SegmentationBatch, WholeImageBatch
from convatlas.data.images.decode import ImageError
from convatlas.data.segmentation.module import SegmentationDataModule
from convatlas.data.segmentation.sources import read_mask
from convatlas.data.sources.shapes import CLASSES, scene
from convatlas.data.sources.shapes_on_disk import write_voc
from convatlas.errors import UserError

SCENES = ["data=shapes_masks", "data.dataset.train=24", "data.dataset.test=6", "data.global_batch_size=6"]


def module(*overrides: str, **arguments: Any) -> SegmentationDataModule:
    """The data module of a configuration; ``arguments`` replace the trainer's rank and so on."""
    data: SegmentationDataModule = instantiate(compose("train", ["model=unet", *overrides]).data)
    return data


class OneOfSeveral:
    """What the data module asks of a trainer."""

    def __init__(self, rank: int, ranks: int, epoch: int = 0, accumulation: int = 1) -> None:
        self.global_rank, self.world_size = rank, ranks
        self.current_epoch, self.accumulate_grad_batches = epoch, accumulation


def batches(data: SegmentationDataModule, rank: int = 0, ranks: int = 1, epoch: int = 0) -> list[SegmentationBatch]:
    data.trainer = OneOfSeveral(rank, ranks, epoch)  # type: ignore[assignment]
    return list(data.train_dataloader())


def by_index(found: list[SegmentationBatch]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    return {
        index: (image, labels)
        for batch in found
        for index, image, labels in zip(batch.indices.tolist(), batch.images, batch.labels, strict=True)
    }


AUGMENTED = [*SCENES, "augment=masks_elastic", "augment.crop.scale=[0.5,2.0]", "augment.weights=null"]


def test_a_training_batch() -> None:
    found = batches(module(*AUGMENTED))
    assert len(found) == 3  # 22 of 24 images, two are for tuning
    for batch in found:
        assert (batch.images.shape, batch.images.dtype) == ((6, 3, 64, 64), torch.uint8)
        assert (batch.labels.shape, batch.labels.dtype) == ((6, 64, 64), torch.uint8)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert set(batch.labels.flatten().tolist()) <= {*range(5), IGNORE_INDEX}
        assert batch.weights is None


def test_batches_do_not_depend_on_the_number_of_threads() -> None:
    one, three = (batches(module(*AUGMENTED, f"data.threads={threads}")) for threads in (1, 3))
    for first, second in zip(one, three, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)
        assert torch.equal(first.indices, second.indices)


def test_the_global_batch_does_not_depend_on_the_number_of_ranks() -> None:
    alone = batches(module(*AUGMENTED))
    together = [batches(module(*AUGMENTED), rank, 3) for rank in range(3)]
    for step, batch in enumerate(alone):
        shares = by_index([ranks[step] for ranks in together])
        for index, (image, labels) in by_index([batch]).items():
            assert torch.equal(shares[index][0], image)
            assert torch.equal(shares[index][1], labels)


def test_epochs_differ_and_come_back() -> None:
    first, second, again = (by_index(batches(module(*AUGMENTED), epoch=epoch)) for epoch in (0, 1, 0))
    common = first.keys() & second.keys()
    assert sum(torch.equal(first[index][0], second[index][0]) for index in common) <= 1
    assert all(torch.equal(first[index][0], again[index][0]) for index in first)


def test_a_stopped_epoch_goes_on_with_the_next_batch() -> None:
    whole = batches(module(*AUGMENTED), epoch=2)
    data = module(*AUGMENTED)
    data.trainer = OneOfSeveral(0, 1, 2)  # type: ignore[assignment]
    loader = data.train_dataloader()
    iterator = iter(loader)
    next(iterator)
    state = loader.state_dict()
    resumed = data.train_dataloader()
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == len(whole) - 1
    for ours, expected in zip(rest, whole[1:], strict=True):
        assert torch.equal(ours.images, expected.images)
        assert torch.equal(ours.labels, expected.labels)


def test_an_evaluation_sees_every_image_once_and_whole() -> None:
    seen: list[int] = []
    for rank in range(4):
        data = module(*SCENES)
        data.trainer = OneOfSeveral(rank, 4)  # type: ignore[assignment]
        for batch in data.test_dataloader():
            assert isinstance(batch, WholeImageBatch)
            for index, image, labels in zip(batch.indices.tolist(), batch.images, batch.labels, strict=True):
                shown = scene(0, 24 + index, (64, 64))
                assert np.array_equal(image.permute(1, 2, 0), shown.image)
                assert np.array_equal(labels, shown.semantic())
                seen.append(index)
    assert sorted(seen) == list(range(6))


def test_normalisation_and_labels_on_the_device() -> None:
    data = module(*SCENES)
    batch = batches(data)[0]
    ready = data.on_after_batch_transfer(batch, 0)
    expected = (batch.images.float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(ready.images, expected)
    assert ready.labels.dtype == torch.int64


def test_the_weights_of_pixels_come_with_the_batch() -> None:
    found = batches(module(*SCENES, "augment=masks_elastic", "augment.weights.objects=[1,2,3,4]"))
    for batch in found:
        assert batch.weights is not None
        assert batch.weights.shape == batch.labels.shape
        assert float(batch.weights.min()) >= 1


VOC = ["data=voc_masks_folder", "data.image_size=64", "data.global_batch_size=4"]


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    top = write_voc(tmp_path, {"train": 10, "val": 4}, size=(48, 80))
    (top / "classes.txt").write_text("\n".join(["background", *CLASSES]) + "\n", encoding="utf-8")
    return top


def test_the_layout_of_voc(voc: Path) -> None:
    data = module(*VOC, f"data.root={voc}")
    assert data.class_list.names == ("background", *CLASSES)
    assert {split: data.num_samples(split) for split in ("train", "val", "test")} == {"train": 9, "val": 1, "test": 4}
    shown = scene(0, 11, (48, 80))
    assert np.array_equal(data.mask("test", 1), shown.semantic())
    assert (data.mask("test", 1) == IGNORE_INDEX).any()
    assert data.load("test", 1).shape == (3, 48, 80)
    labels = torch.stack(list(batches(data)[0].labels))
    assert labels.shape == (4, 64, 64)  # one side is padded, the other cropped


def test_voc_s_own_classes_go_without_saying(voc: Path) -> None:
    (voc / "classes.txt").unlink()
    assert len(module(*VOC, f"data.root={voc}").class_list.names) == 21


def test_torchvision_finds_voc_where_it_was_downloaded(voc: Path, tmp_path: Path) -> None:
    overrides = ["data=voc_masks", "data.image_size=64", "data.num_classes=5", "data.dataset.download=false"]
    data = module(*overrides, f"data.root={tmp_path}")
    assert data.num_samples("test") == 4
    config = compose("train", ["model=unet", *overrides]).data
    with pytest.raises(UserError, match=r"no VOC2012 there and data\.dataset\.download=true would fetch it"):
        instantiate(config.dataset)(3, root=str(tmp_path / "elsewhere"))


def write_cityscapes(root: Path, splits: dict[str, int]) -> Path:
    """As Cityscapes: folders of cities, suffixes, and ids in the masks of which some are not evaluated."""
    for split, count in splits.items():
        for number in range(count):
            name = Path(split) / "aachen" / f"aachen_{number:06d}_000019"
            image = root / "leftImg8bit" / f"{name}_leftImg8bit.png"
            mask = root / "gtFine" / f"{name}_gtFine_labelIds.png"
            for file in (image, mask):
                file.parent.mkdir(parents=True, exist_ok=True)
            generator = np.random.default_rng(number)
            Image.fromarray(generator.integers(0, 256, (32, 64, 3), dtype=np.uint8)).save(image)
            Image.fromarray(generator.choice([0, 7, 8, 33], (32, 64)).astype(np.uint8)).save(mask)
            (mask.parent / f"{name.name}_gtFine_color.png").touch()
    (root / "classes.txt").write_text("".join(f"class {number}\n" for number in range(19)), encoding="utf-8")
    return root


def test_the_layout_of_cityscapes(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, {"train": 4, "val": 2})
    data = module("data=cityscapes", f"data.root={root}", "data.image_size=32", "data.global_batch_size=2")
    assert data.num_samples("train") == 3
    assert data.num_samples("test") == 2
    stored = np.array(Image.open(root / "gtFine/val/aachen/aachen_000000_000019_gtFine_labelIds.png"))
    mask = data.mask("test", 0).numpy()
    for value, label in ((0, IGNORE_INDEX), (7, 0), (8, 1), (33, 18)):
        assert set(mask[stored == value].tolist()) == {label}


def test_folders_of_images_and_masks_with_a_tuning_split(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40)).save(tmp_path / "images" / split / f"{number}.jpg")
            Image.new("L", (40, 40), number % 2).save(tmp_path / "masks" / split / f"{number}.png")
    (tmp_path / "classes.txt").write_text("paper\nink\n", encoding="utf-8")
    data = module("data=mask_folders", f"data.root={tmp_path}", "data.image_size=32", "data.global_batch_size=2")
    assert [data.num_samples(split) for split in ("train", "val", "test")] == [3, 3, 3]
    assert data.path("val", 1).endswith("images/val/1.jpg")


def test_the_images_of_masks_are_chosen_as_those_of_classes(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path, {"train": 3, "val": 2})
    train = root / "leftImg8bit" / "train"
    image = train / "aachen" / "aachen_000000_000019_leftImg8bit.png"
    image.rename(image.with_suffix(".JFIF"))
    (root / "elsewhere").mkdir()
    linked = {"leftImg8bit": "leftImg8bit.png", "gtFine": "gtFine_labelIds.png"}
    for folder, ending in linked.items():
        source = root / folder / "train" / "aachen" / f"aachen_000001_000019_{ending}"
        target = root / "elsewhere" / folder / f"bern_000001_000019_{ending}"
        target.parent.mkdir()
        target.write_bytes(source.read_bytes())
        (root / folder / "train" / "bern").symlink_to(target.parent)
    (train / "bern" / "circle").symlink_to(train)
    for name in (".ipynb_checkpoints/x_leftImg8bit.png", "aachen/._a_leftImg8bit.png", "aachen/preview.png", "a.heic"):
        (train / name).parent.mkdir(exist_ok=True)
        (train / name).touch()
    data = module("data=cityscapes", f"data.root={root}", "data.image_size=32", "data.global_batch_size=2")
    paths = [data.sources["train"].path(index) for index in range(4)]
    assert [Path(path).name[:11] for path in paths] == ["aachen_0000"] * 3 + ["bern_000001"]
    assert data.num_samples("train") + data.num_samples("val") == 4
    assert data.passed_over == {".heic": 1, ".png without _leftImg8bit": 1}


def replace_mask(voc: Path, name: str, mask: Image.Image) -> Path:
    file = voc / "SegmentationClass" / f"{name}.png"
    mask.save(file)
    return file


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_mask_is_turned_upright_as_its_image_is(suffix: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 5, (6, 8)).astype(np.uint8)
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{suffix}"
        Image.fromarray(values).save(path, exif=exif)
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes())))
        assert np.array_equal(read_mask(path), np.asarray(expected))
        assert expected.size == ((8, 6) if orientation < 5 else (6, 8))


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda voc: replace_mask(voc, "2012_000003", Image.new("L", (80, 47))), "48 x 80 pixels, its mask 47 x 80"),
        (
            lambda voc: replace_mask(voc, "2012_000003", Image.new("L", (48, 80))),
            "its mask 80 x 48; .*EXIF orientation",
        ),
        (lambda voc: replace_mask(voc, "2012_000003", Image.new("L", (80, 48), 9)), "holds class 9; expected 0 to 4"),
        (lambda voc: replace_mask(voc, "2012_000003", Image.new("RGB", (80, 48))), "a mask in RGB; expected a palette"),
        (lambda voc: (voc / "SegmentationClass" / "2012_000003.png").write_bytes(b"\x89PNG"), "expected a mask in one"),
        (lambda voc: (voc / "JPEGImages" / "2012_000003.jpg").write_bytes(b""), "an empty file"),
    ],
)
def test_a_bad_pair_is_named_or_left_out(spoil: Spoil, message: str, voc: Path) -> None:
    spoil(voc)
    data = module(*VOC, f"data.root={voc}")
    with pytest.raises(ImageError, match=rf"2012_000003.*{message}"):
        [batches(data, epoch=epoch) for epoch in range(3)]
    skipping = module(*VOC, f"data.root={voc}", "data.on_error=skip")
    found = [batch for epoch in range(3) for batch in batches(skipping, epoch=epoch)]
    assert all(len(batch.images) == 4 for batch in found)
    assert len(skipping.skipped) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda voc: (voc / "SegmentationClass" / "2012_000002.png").unlink(),
            r"the mask .*2012_000002\.png is missing",
        ),
        (lambda voc: (voc / "JPEGImages" / "2012_000002.jpg").unlink(), r"the image .*2012_000002\.jpg is missing"),
        (lambda voc: (voc / "ImageSets/Segmentation/val.txt").unlink(), r"val\.txt is missing; expected the names"),
        (
            lambda voc: (voc / "ImageSets/Segmentation/val.txt").write_text("", encoding="utf-8"),
            r"val\.txt: names no images",
        ),
        (
            lambda voc: (voc / "classes.txt").write_text("a\na\n", encoding="utf-8"),
            "expected one class name a line, each once",
        ),
    ],
)
def test_what_is_missing_is_named_before_training(spoil: Spoil, message: str, voc: Path) -> None:
    spoil(voc)
    config = compose("train", ["model=unet", *VOC, f"data.root={voc}"]).data
    with pytest.raises(UserError, match=message) as caught:
        instantiate(config.dataset)(3, root=str(voc))
    assert "\n" not in str(caught.value)


def test_augmentations_of_images_without_masks_are_refused() -> None:
    with pytest.raises(Exception, match="augment: it is for images without masks"):
        module(*SCENES, "augment=random_resized_crop")


def test_the_identity_of_the_data_changes_with_them(voc: Path) -> None:
    first = module(*VOC, f"data.root={voc}").fingerprint
    listed = voc / "ImageSets/Segmentation/train.txt"
    listed.write_text("".join(listed.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    assert module(*VOC, f"data.root={voc}").fingerprint != first
    seeds = [module(*SCENES, f"data.dataset.scenes_seed={seed}").fingerprint for seed in (0, 1)]
    assert seeds[0] != seeds[1]
