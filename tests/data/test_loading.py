"""Exact loading: the batches do not depend on threads or ranks, and every evaluated sample counts once."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torchvision.transforms.v2 import functional as TF

from convatlas.config import compose
from convatlas.data.augment import CenterCrop, HorizontalFlip, PadCrop, RandomResizedCrop, ScaleJitterCrop, Step
from convatlas.data.batch import Batch
from convatlas.data.datamodule import ClassificationDataModule, cut_val
from convatlas.data.order import evaluation_batches, train_batches
from convatlas.errors import UserError
from tests.fixtures import write_image_folder


def folder_data(root: Path, *overrides: str) -> ClassificationDataModule:
    settings = ["data=imagefolder", f"data.root={root}", "data.image_size=16", "data.resize=20"]
    data: ClassificationDataModule = instantiate(
        compose("train", [*settings, "data.global_batch_size=6", "augment=random_resized_crop", *overrides]).data
    )
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("images"), ["a", "b", "c"], per_class=10, size=24)


@pytest.mark.parametrize("threads", [2, 5])
def test_batches_do_not_depend_on_the_number_of_threads(root: Path, threads: int) -> None:
    one, several = (list(folder_data(root, f"data.threads={count}").train_dataloader()) for count in (1, threads))
    assert len(one) == len(several) == 4
    for first, second in zip(one, several, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


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
    expected = CenterCrop(size=16, resize=20)(data.load("test", 7))
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
        return CenterCrop(size=16)(image)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        data = folder_data(root)
        data.augment = {"ask": ask}
        next(iter(data.train_dataloader()))
        assert set(asked) == {1}
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_loader_goes_on_behind_the_batches_it_has_handed_out(root: Path) -> None:
    whole = [batch.indices.tolist() for batch in folder_data(root).train_dataloader()]
    first, second = (folder_data(root).train_dataloader() for _ in range(2))
    iterator = iter(first)
    seen = [next(iterator).indices.tolist() for _ in range(2)]
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == {"epoch": 0, "batches": 2}
    assert seen + [batch.indices.tolist() for batch in second] == whole
    assert [batch.indices.tolist() for batch in second] == whole


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


def test_images_of_another_number_of_channels_are_named(root: Path) -> None:
    data = folder_data(root, "data.image_size=16", "data.resize=null")
    data.center_crop = CenterCrop(size=12)
    with pytest.raises(UserError, match=r"ends as \(3, 12, 12\), expected \(3, 16, 16\)"):
        next(iter(data.test_dataloader()))


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
    assert not set(first.members["train"]) & set(first.members["val"])
    assert np.array_equal(first.members["val"], second.members["val"])


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


STEPS: list[Any] = [
    CenterCrop(size=16),
    CenterCrop(size=16, resize=18),
    PadCrop(size=16, padding=4),
    RandomResizedCrop(size=16),
    ScaleJitterCrop(size=16, min_side=16, max_side=20),
]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
@pytest.mark.parametrize("shape", [(3, 24, 30), (1, 40, 17), (3, 7, 90), (1, 16, 16)])
def test_every_crop_ends_at_its_size_and_repeats_with_its_generator(step: Step, shape: tuple[int, ...]) -> None:
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    first, again = (step(image, np.random.default_rng([1, 2, 3])) for _ in range(2))
    assert first.shape == (shape[0], 16, 16)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)


def test_a_small_image_is_padded_in_the_middle() -> None:
    padded = CenterCrop(size=32)(torch.full((1, 28, 28), 9, dtype=torch.uint8))
    assert torch.equal(padded[0, 2:30, 2:30], torch.full((28, 28), 9, dtype=torch.uint8))
    assert int(padded.sum()) == 9 * 28 * 28


@pytest.mark.parametrize("shape", [(28, 28), (29, 31), (33, 40), (35, 20), (20, 37), (32, 32)])
def test_the_centre_is_where_torchvision_has_it(shape: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(CenterCrop(size=32)(image), TF.center_crop(image, [32, 32]))


def test_the_random_crop_reaches_every_offset() -> None:
    image = torch.arange(36, dtype=torch.uint8).view(1, 6, 6) + 1
    crop = PadCrop(size=6, padding=1)
    corners = {int(crop(image, np.random.default_rng(seed))[0, 2, 2]) for seed in range(200)}
    assert corners == {8, 9, 10, 14, 15, 16, 20, 21, 22}


def test_the_random_resized_crop_stays_in_its_ranges() -> None:
    crop = RandomResizedCrop(size=8, scale=(0.2, 0.5), ratio=(0.5, 2.0))
    for seed in range(300):
        top, left, height, width = crop._box(60, 80, np.random.default_rng(seed))
        assert 0 <= top <= 60 - height
        assert 0 <= left <= 80 - width
        assert 0.19 <= height * width / 4800 <= 0.51
        assert 0.48 <= width / height <= 2.1


def test_flips_happen_half_of_the_time() -> None:
    image = torch.arange(2, dtype=torch.uint8).view(1, 1, 2)
    flip = HorizontalFlip(p=0.5)
    flipped = sum(bool(flip(image, np.random.default_rng(seed))[0, 0, 0]) for seed in range(400))
    assert 160 <= flipped <= 240
