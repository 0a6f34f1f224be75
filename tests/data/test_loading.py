"""Exact loading: the batches do not depend on threads or ranks, and every evaluated sample counts once."""

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from convatlas.config.composition import compose
from convatlas.data.batch import Batch
from convatlas.data.classification.module import ClassificationDataModule
from convatlas.data.module import cut_val
from convatlas.data.sampler import evaluation_batches, train_batches
from convatlas.data.transforms.image import (
    Augmentation,
    CenterCrop,
    HorizontalFlip,
    RandomResizedCrop,
    ScaleJitterCrop,
    center_crop,
)
from convatlas.errors import UserError
from tests.fixtures import write_image_folder


def folder_data(root: Path, *overrides: str) -> ClassificationDataModule:
    settings = ["data=imagefolder", f"data.root={root}", "data.image_size=16", "data.resize=20"]
    data: ClassificationDataModule = instantiate(
        compose("train", [*settings, "data.global_batch_size=6", "augment=random_resized_crop", *overrides]).data
    )
    return data


def same(first: Batch, second: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), ["a", "b", "c"], per_class=10, size=24)


@pytest.mark.parametrize("threads", [2, 5])
def test_batches_do_not_depend_on_the_number_of_threads(root: Path, threads: int) -> None:
    one, several = (list(folder_data(root, f"data.threads={count}").train_dataloader()) for count in (1, threads))
    assert len(one) == len(several) == 4
    assert all(same(*pair) for pair in zip(one, several, strict=True))


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    whole = train_batches(30, 6, 1, seed=0, epoch=3, rank=0, world_size=1)
    shares = [train_batches(30, 6, 1, 0, 3, rank, world_size) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(batch) == sorted(np.concatenate(parts))


def test_accumulation_splits_the_same_batch() -> None:
    whole = train_batches(30, 6, 1, seed=0, epoch=0, rank=0, world_size=1)
    parts = train_batches(30, 6, 3, seed=0, epoch=0, rank=0, world_size=1)
    assert np.array_equal(np.concatenate(whole), np.concatenate(parts))
    assert [len(part) for part in parts] == [2] * 15


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return list(np.concatenate(train_batches(30, 6, 1, seed, epoch, 0, 1)))

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert sorted(order(0, 0)) == list(range(30))


@pytest.mark.parametrize(("num_samples", "world_size"), [(9, 2), (10, 3), (7, 1), (5, 5)])
def test_every_evaluated_sample_counts_once(num_samples: int, world_size: int) -> None:
    seen = [
        index
        for rank in range(world_size)
        for batch in evaluation_batches(num_samples, 2, rank, world_size)
        for index in batch.tolist()
    ]
    assert sorted(seen) == list(range(num_samples))


def test_evaluation_is_the_centre_crop_of_every_image(root: Path) -> None:
    data = folder_data(root)
    batches = list(data.test_dataloader())
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(30))
    expected = center_crop(data.load("test", 7), 16, 20)
    assert torch.equal(batches[1].images[1], expected)
    assert batches[1].images.dtype == torch.uint8


def test_an_iteration_left_early_leaves_no_threads(root: Path) -> None:
    loader = folder_data(root).train_dataloader()
    iterator = iter(loader)
    next(iterator)
    assert any(thread.name.startswith("loader") for thread in threading.enumerate())
    del iterator
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


def test_the_threads_of_a_loader_compute_alone_and_leave_the_callers_setting(root: Path) -> None:
    asked = []

    def ask(image: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        asked.append(torch.get_num_threads())
        return image

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        data = folder_data(root)
        data.augment = Augmentation(crop=CenterCrop(), steps={"ask": ask})
        next(iter(data.train_dataloader()))
        assert set(asked) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_loader_goes_on_behind_the_batches_it_has_handed_out(root: Path, stopped_after: int) -> None:
    whole = list(folder_data(root).train_dataloader())
    first, second = (folder_data(root, f"data.threads={threads}").train_dataloader() for threads in (2, 3))
    iterator = iter(first)
    for _ in range(stopped_after):
        next(iterator)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"epoch": 0, "batches": stopped_after}
    rest = list(second)
    assert len(rest) == len(whole) - stopped_after
    assert all(same(*pair) for pair in zip(rest, whole[stopped_after:], strict=True))
    assert all(same(*pair) for pair in zip(second, whole, strict=True))  # and then from the start of an epoch


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_pixels_of_the_global_batch_do_not_depend_on_the_ranks(
    root: Path, world_size: int, accumulation: int
) -> None:
    whole = list(folder_data(root, "data.global_batch_size=12").train_dataloader())
    parts: list[list[Batch]] = []
    for rank in range(world_size):
        data = folder_data(root, "data.global_batch_size=12")
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            accumulate_grad_batches=accumulation, global_rank=rank, world_size=world_size, current_epoch=0
        )
        parts.append(list(data.train_dataloader()))
    for number, batch in enumerate(whole):
        start = number * accumulation
        pieces = [piece for rank in parts for piece in rank[start : start + accumulation]]
        order = torch.cat([piece.indices for piece in pieces]).argsort()
        expected = batch.indices.argsort()
        assert torch.equal(torch.cat([piece.images for piece in pieces])[order], batch.images[expected])
        assert torch.equal(torch.cat([piece.labels for piece in pieces])[order], batch.labels[expected])


class Recorder(LightningModule):
    """Learns one number and writes down the samples that it saw."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], float]] = []
        self.stop_after = stop_after

    def training_step(self, batch: Batch) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.indices.tolist(), float(batch.images.sum())))
        return self.weight * batch.images.mean()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.stop_after == len(self.seen):
            raise KeyError("killed")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`", "ignore:The dirpath has changed")
@pytest.mark.parametrize("killed_after", [2, 4, 6], ids=["mid-epoch", "epoch's end", "second epoch"])
@pytest.mark.parametrize("limit", [1.0, 3], ids=["all batches", "three batches"])
def test_a_killed_run_goes_on_with_the_samples_it_has_not_seen(
    root: Path, tmp_path: Path, killed_after: int, limit: float
) -> None:
    def fit(module: Recorder, name: str, checkpoint: Path | None = None) -> Recorder:
        Trainer(
            max_epochs=3,
            limit_train_batches=limit,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            limit_val_batches=0,
            callbacks=[ModelCheckpoint(tmp_path / name, save_last=True, every_n_train_steps=1, save_top_k=1)],
        ).fit(module, datamodule=folder_data(root, "data.val_fraction=0.2"), ckpt_path=checkpoint, weights_only=True)
        return module

    whole = fit(Recorder(), "whole")
    with pytest.raises(KeyError, match="killed"):
        fit(killed := Recorder(stop_after=killed_after), "killed")
    resumed = fit(Recorder(), "resumed", tmp_path / "killed" / "last.ckpt")
    seen = len(whole.seen) - len(resumed.seen)  # up to the checkpoint that was resumed
    assert seen in (killed_after - 1, killed_after)
    assert killed.seen[:seen] + resumed.seen == whole.seen
    assert resumed.weight == whole.weight


def test_a_broken_image_arrives_with_its_name(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=10, size=24)
    (root / "val" / "b" / "003.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(UserError, match=r"val/b/003\.jpg"):
        list(folder_data(root).test_dataloader())


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """30 images in train/ and in val/, of which two in each are damaged."""
    root = write_image_folder(tmp_path, ["a", "b", "c"], per_class=10, size=24)
    for split in ("train", "val"):
        (root / split / "b" / "003.jpg").write_bytes(b"\xff\xd8\xff broken")
        (root / split / "c" / "009.jpg").write_bytes(b"")
    return root


def test_skipped_training_images_are_replaced_and_named_once(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder_data(damaged, "data.on_error=skip", "data.val_fraction=0.1")
    data.skipped.log = tmp_path / "skipped.txt"
    loader = data.train_dataloader()
    for _ in range(2):
        batches = list(loader)
        assert [len(batch.labels) for batch in batches] == [6] * 4
        for batch in batches:
            members = data.indices["train"][batch.indices.numpy()]
            assert batch.labels.tolist() == data.sources["train"].labels[members].tolist()
            assert {"train/b/003.jpg", "train/c/009.jpg"}.isdisjoint(
                data.path("train", int(index)).removeprefix(f"{damaged}/") for index in batch.indices
            )
    logged = data.skipped.log.read_text(encoding="utf-8").splitlines()
    assert 1 <= len(logged) == len(set(logged)) == len(data.skipped) <= 2
    assert [f"skipped   {line}" for line in logged] == capsys.readouterr().err.splitlines()


def test_a_replacement_is_the_same_on_any_number_of_threads(damaged: Path) -> None:
    one, five = (
        list(folder_data(damaged, "data.on_error=skip", f"data.threads={threads}").train_dataloader())
        for threads in (1, 5)
    )
    assert all(same(*pair) for pair in zip(one, five, strict=True))


def test_skipped_images_of_an_evaluation_are_left_out(damaged: Path) -> None:
    data = folder_data(damaged, "data.on_error=skip")
    seen = [index for batch in data.test_dataloader() for index in batch.indices.tolist()]
    assert seen == [index for index in range(30) if index not in (13, 29)]
    assert len(data.skipped) == 2


def test_a_replacement_does_not_repeat_what_its_own_entry_shows(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=6, size=24)
    data = folder_data(root, "data.on_error=skip", "data.global_batch_size=2", "data.val_fraction=0.1")
    Path(data.path("train", 3)).write_bytes(b"")
    neighbour = 4
    shown = [
        batch.images[row]
        for batch in data.train_dataloader()
        for row in range(2)
        if int(batch.indices[row]) == neighbour
    ]
    assert len(shown) == 2
    assert not torch.equal(*shown)


def test_a_name_that_is_no_text_is_skipped_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_image_folder(tmp_path / "images", ["a", "b"], per_class=6, size=24)
    Path(os.fsdecode(os.fsencode(root / "val" / "a") + b"/caf\xe9\n.jpg")).write_bytes(b"")
    data = folder_data(root, "data.on_error=skip")
    data.skipped.log = tmp_path / "skipped.txt"
    assert sum(len(batch.labels) for batch in data.test_dataloader()) == 12
    (line,) = data.skipped.log.read_text(encoding="utf-8").splitlines()
    assert line.endswith(r"caf\udce9\n.jpg: an empty file; expected an image")


def test_an_error_of_a_step_says_while_loading_what(root: Path) -> None:
    def fail(image: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        raise RuntimeError("no such operation")

    data = folder_data(root)
    data.augment = Augmentation(crop=CenterCrop(), steps={"fail": fail})
    with pytest.raises(RuntimeError) as caught:
        list(data.train_dataloader())
    (note,) = caught.value.__notes__
    assert note.startswith(f"while loading {root}/train/")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomResizedCrop(scale=(0.0, 1.0)), r"augment\.crop\.scale=\[0\.0,1\.0\]: expected"),
        (lambda: RandomResizedCrop(ratio=(2.0, 1.0)), r"augment\.crop\.ratio=\[2\.0,1\.0\]: expected"),
        (lambda: ScaleJitterCrop(min_side=500, max_side=480), r"augment\.crop\.min_side=500: expected at most"),
        (lambda: HorizontalFlip(p=3), r"augment\.steps\.flip\.p=3: expected a probability"),
    ],
)
def test_values_out_of_range_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_nothing_but_damage_ends_the_run(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=4, size=24)
    data = folder_data(root, "data.on_error=skip")
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"data\.on_error=skip: none of the images"):
        list(data.train_dataloader())
    assert list(data.test_dataloader()) == []


def test_a_schedule_sets_the_size_of_each_epoch(root: Path) -> None:
    data = folder_data(
        root,
        "data.image_size=32",
        "augment=progressive_resizing",
        "augment.image_size.start=8",
        "augment.image_size.multiple=8",
        "trainer.max_epochs=5",
    )
    loader = data.train_dataloader()
    _, batches = loader.plan()
    sizes = []
    for epoch in range(5):
        loader.plan = partial(lambda epoch: (epoch, batches[:1]), epoch)
        sizes.append(next(iter(loader)).images.shape[-1])
    assert sizes == [8, 16, 24, 32, 32]
    assert next(iter(data.val_dataloader())).images.shape[-1] == 32


def test_copies_of_a_sample_are_augmented_each_in_its_own_way(root: Path) -> None:
    (first, *_) = folder_data(root, "augment.repeats=3").train_dataloader()
    assert sorted(np.unique(first.indices, return_counts=True)[1].tolist()) == [3, 3]
    for index in first.indices.unique():
        copies = first.images[first.indices == index]
        assert not torch.equal(copies[0], copies[1])


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_the_device_does_to_a_sample_does_not_depend_on_ranks(root: Path, world_size: int) -> None:
    """Lighting, erasing and mixing, with repeats: the same pixels and label weights in one batch or in shares of it."""
    overrides = ["data.global_batch_size=12", "augment=trivial_augment", "augment.repeats=2"]
    lighting = "{lighting: {_target_: convatlas.data.transforms.on_device.Lighting, std: ${data.std}}}"
    shares = []
    for rank in range(world_size):
        data = folder_data(root, *overrides, f"+augment.batch={lighting}")
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            accumulate_grad_batches=1, global_rank=rank, world_size=world_size, current_epoch=2
        )
        shares.append([data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()])
    whole = folder_data(root, *overrides, f"+augment.batch={lighting}")
    whole.trainer = SimpleNamespace(  # type: ignore[assignment]
        accumulate_grad_batches=1, global_rank=0, world_size=1, current_epoch=2
    )
    for number, batch in enumerate(whole.train_dataloader()):
        expected = whole.on_after_batch_transfer(batch, 0)
        assert expected.mixed_labels is not None
        assert expected.label_weights is not None
        pieces = [share[number] for share in shares]
        found = {key(piece, row) for piece in pieces for row in range(len(piece.labels))}
        assert found == {key(expected, row) for row in range(12)}


def key(batch: Batch, row: int) -> tuple[int, int, float, bytes]:
    """All that a sample's row of a batch holds."""
    assert batch.mixed_labels is not None
    assert batch.label_weights is not None
    pixels = batch.images[row].contiguous().numpy().tobytes()
    return int(batch.labels[row]), int(batch.mixed_labels[row]), float(batch.label_weights[row]), pixels


def test_a_batch_that_cannot_be_mixed_in_pairs_is_refused(root: Path) -> None:
    data = folder_data(root, "data.global_batch_size=6", "augment=trivial_augment")
    data.check_batch(world_size=3, accumulation=1)
    with pytest.raises(
        UserError, match=r"data\.global_batch_size=6: augment\.mix takes pairs, expected a multiple of 4"
    ):
        data.check_batch(world_size=2, accumulation=1)


def test_normalisation_is_of_pixels_in_the_unit_interval(root: Path) -> None:
    data = folder_data(root)
    batch = Batch(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8), torch.zeros(1), torch.zeros(1))
    normalised = data.on_after_batch_transfer(batch, 0).images
    assert normalised.dtype == torch.float32
    assert normalised[0, :, 0, 0].tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225])


def test_val_is_cut_from_train_class_by_class() -> None:
    labels = np.repeat(np.arange(3), [100, 50, 10])
    train, val = cut_val(labels, 0.1)
    assert np.bincount(labels[val]).tolist() == [10, 5, 1]
    assert sorted([*train, *val]) == list(range(160))


def test_val_and_train_do_not_share_images_and_val_is_the_same_for_every_seed(root: Path) -> None:
    first, second = folder_data(root, "seed=0"), folder_data(root, "seed=1")
    assert not set(first.indices["train"]) & set(first.indices["val"])
    assert np.array_equal(first.indices["val"], second.indices["val"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.num_classes=5"], "data.num_classes=5: imagefolder has 3 classes"),
        (["data.mean=[0.5]"], "data.mean and data.std: expected 3 numbers"),
        (["data.val_fraction=1.5"], "data.val_fraction=1.5"),
        (["data.val_fraction=0.99"], "none would be left"),
        (["data.threads=0"], "data.threads=0"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_named(root: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(InstantiationException) as caught:
        folder_data(root, *overrides)
    assert message in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("size", "ranks", "accumulation", "message"),
    [(6, 4, 1, "multiple of 4"), (6, 2, 2, "multiple of 4"), (0, 1, 1, "multiple of 1"), (600, 1, 1, "only 27")],
)
def test_a_batch_that_cannot_be_dealt_is_refused(
    root: Path, size: int, ranks: int, accumulation: int, message: str
) -> None:
    data = folder_data(root, f"data.global_batch_size={size}")
    with pytest.raises(UserError, match=message) as caught:
        data.check_batch(ranks, accumulation)
    assert str(caught.value).startswith(f"data.global_batch_size={size}")
