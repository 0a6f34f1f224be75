"""Batches of images with objects are functions of (seed, epoch), whatever the threads and ranks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from convatlas.config.composition import check_config, compose
from convatlas.data.batch import ObjectBatch
from convatlas.data.detection.module import DetectionDataModule
from convatlas.data.images.decode import ImageError
from convatlas.data.sampler import train_batches
from convatlas.data.sources.shapes_on_disk import write_coco
from convatlas.errors import UserError
from tests.data.detection.test_objects_on_disk import edit


def shapes_data(*overrides: str) -> DetectionDataModule:
    small = ["data.dataset.train=24", "data.dataset.test=7", "data.dataset.size=[40,56]", "data.image_size=32"]
    config = compose("train", ["data=shapes_objects", *small, "data.global_batch_size=6", *overrides])
    check_config(config, {})
    data: DetectionDataModule = instantiate(config.data)
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """COCO's layout with images of two shapes: every third is upright."""
    write_coco(tmp_path, {"train2017": 24, "val2017": 4}, size=(40, 56))
    path = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for image in content["images"][::3]:
        file = tmp_path / "train2017" / image["file_name"]
        Image.open(file).resize((40, 56)).save(file)
        image.update(width=40, height=56)
    path.write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def coco_data(root: Path, *overrides: str) -> DetectionDataModule:
    settings = ["data=coco", f"data.root={root}", "data.image_size=32", "data.long_side=64", "data.global_batch_size=4"]
    config = compose("train", [*settings, "data.dataset.masks=false", "data.val_fraction=0.1", *overrides])
    data: DetectionDataModule = instantiate(config.data)
    return data


def same(one: ObjectBatch, other: ObjectBatch) -> bool:
    pairs = zip(
        [*one.boxes, *one.labels, *(one.masks or [])], [*other.boxes, *other.labels, *(other.masks or [])], strict=True
    )
    return (
        torch.equal(one.images, other.images)
        and torch.equal(one.indices, other.indices)
        and one.sizes == other.sizes
        and all(torch.equal(*pair) for pair in pairs)
    )


JITTER = [
    "augment=objects_scale_jitter",
    "augment.resize.size=48",
    "augment.resize.scale=[0.8,1.2]",
]


def test_batches_do_not_depend_on_the_number_of_threads() -> None:
    one, several = (list(shapes_data(f"data.threads={count}", *JITTER).train_dataloader()) for count in (1, 5))
    assert len(one) == len(several) == 3
    assert all(same(*pair) for pair in zip(one, several, strict=True))
    assert one[0].masks is not None
    assert all(mask.shape[1:] == one[0].images.shape[2:] for mask in one[0].masks)


def test_a_resumed_epoch_shows_the_rest_of_it() -> None:
    whole = list(shapes_data(*JITTER).train_dataloader())
    loader = shapes_data(*JITTER).train_dataloader()
    loader.load_state_dict({"epoch": 0, "batches": 2})
    (rest,) = loader
    assert same(rest, whole[2])


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    kinds = np.arange(30) % 3
    whole = train_batches(30, 4, 1, 0, 3, 0, 1, kinds=kinds)
    shares = [train_batches(30, 4, 1, 0, 3, rank, world_size, kinds=kinds) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(np.concatenate(parts))


def test_batches_are_of_one_orientation_but_for_the_last(root: Path) -> None:
    data = coco_data(root)
    order = data.train_order(0, 1)
    kinds = [set(data._upright[batch].tolist()) for batch in order]
    assert [len(kind) for kind in kinds[:-1]] == [1] * (len(kinds) - 1)
    assert {0, 1} <= set.union(*kinds)
    assert len(np.unique(np.concatenate(order))) == 4 * len(order)
    different = data.train_order(1, 1)
    assert any((one != other).any() for one, other in zip(order, different, strict=True))


def test_what_surrounds_an_image_is_zero_to_the_network(root: Path) -> None:
    data = coco_data(root)
    batch = next(batch for batch in data.train_dataloader() if len(set(batch.sizes)) > 1)
    assert all(side % 32 == 0 for side in batch.images.shape[2:])
    shown = data.on_after_batch_transfer(batch, 0)
    for image, raw, (height, width) in zip(shown.images, batch.images, batch.sizes, strict=True):
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (data.mean, data.std))
        expected = (raw[:, :height, :width] / 255 - mean) / std
        torch.testing.assert_close(image[:, :height, :width], expected)


def test_an_evaluation_sees_every_image_once_and_no_objects() -> None:
    data = shapes_data()
    batches = list(data.test_dataloader())
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(7))
    assert all(len(labels) == 0 for batch in batches for labels in batch.labels)
    assert batches[0].sizes[0] == (32, 45)
    assert batches[0].stored_sizes[0] == (40, 56)


def test_val_is_cut_from_train(root: Path) -> None:
    data = coco_data(root, "data.val_fraction=0.25")
    assert [data.num_samples(split) for split in ("train", "val", "test")] == [18, 6, 4]
    assert not set(data.indices["train"]) & set(data.indices["val"])


def test_crowds_are_not_trained_on(root: Path) -> None:
    def all_labels() -> int:
        return sum(len(labels) for batch in coco_data(root).train_dataloader() for labels in batch.labels)

    assert all_labels() > 0
    edit(root, lambda content: [item.update(iscrowd=1) for item in content["annotations"]])
    assert all_labels() == 0


def test_a_damaged_image_ends_the_run_or_is_replaced(root: Path) -> None:
    data = coco_data(root)
    path = Path(data.path("train", 0))
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=path.name):
        list(data.train_dataloader())
    data = coco_data(root, "data.on_error=skip")
    batches = list(data.train_dataloader())
    assert len(data.skipped) == 1
    assert all(len(batch.labels) == 4 for batch in batches)
    Path(data.path("test", 1)).write_bytes(b"no image")
    assert torch.cat([batch.indices for batch in data.test_dataloader()]).tolist() == [0, 2, 3]


def test_a_batch_of_damaged_images_alone_is_passed_over(root: Path) -> None:
    data = coco_data(root, "data.on_error=skip", "data.global_batch_size=2")
    for index in (0, 1):
        Path(data.path("test", index)).write_bytes(b"")
    assert torch.cat([batch.indices for batch in data.test_dataloader()]).tolist() == [2, 3]


def test_augmentations_of_other_images_are_refused() -> None:
    with pytest.raises(Exception, match="data=shapes_objects expects augment=objects_flip") as caught:
        shapes_data("augment=pad_crop_flip", "augment.crop.resize=null")
    assert isinstance(caught.value.__cause__, UserError)


def test_another_number_of_classes_than_asked_for_is_refused(root: Path) -> None:
    with pytest.raises(Exception, match="coco has 4 classes") as caught:
        coco_data(root, "data.num_classes=80")
    assert isinstance(caught.value.__cause__, UserError)
