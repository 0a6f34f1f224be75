from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from convatlas.config.arguments import expanded
from convatlas.config.composition import compose, plain
from convatlas.data.batch import Batch, ObjectBatch, SegmentationBatch
from convatlas.training.gpu import fits, gpu_settings, largest_power_of_two, resized, set_tf32
from pipelines.check import check
from pipelines.train import train
from tests.conftest import SMALL

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def tf32_restored() -> Iterator[None]:
    yield
    set_tf32(None)


@pytest.mark.parametrize(("tf32", "convolutions", "products"), [(None, True, False), (True,) * 3, (False,) * 3])
def test_tf32_is_set_for_convolutions_and_matrix_products(
    tf32: bool | None, convolutions: bool, products: bool, tf32_restored: None
) -> None:
    set_tf32(tf32)
    assert torch.backends.cudnn.allow_tf32 is convolutions
    assert torch.backends.cuda.matmul.allow_tf32 is products


def test_train_sets_tf32_before_it_trains(tmp_path: Path, tf32_restored: None) -> None:
    settings = [*SMALL, f"run.root={tmp_path}", "trainer.max_epochs=1", "trainer.limit_train_batches=1"]
    run = train(compose("train", [*settings, "tf32=false"]))["run"]
    assert torch.backends.cudnn.allow_tf32 is False
    assert train(compose("train", settings))["run"] != run
    assert torch.backends.cudnn.allow_tf32 is True


def test_the_settings_of_a_gpu_are_listed_as_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H100")
    config = compose("train", ["trainer.precision=bf16-mixed", "tf32=true", "model.channels_last=true"])
    assert gpu_settings(expanded(plain(config)), torch.device("cuda")) == (
        "NVIDIA H100, trainer.precision=bf16-mixed tf32=true model.channels_last=true model.compile=false "
        "trainer.deterministic=warn trainer.benchmark=null optimizer.algorithm.fused=null"
    )


def test_the_largest_power_of_two_that_fits_is_found() -> None:
    def room(size: int) -> None:
        if size > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    assert largest_power_of_two(lambda size: fits(lambda: room(size)), 1000) == 32
    assert largest_power_of_two(lambda size: fits(lambda: room(size)), 20) == 16
    assert largest_power_of_two(lambda size: False, 20) == 0


def test_a_batch_of_each_kind_takes_another_size() -> None:
    images, indices = torch.arange(3 * 2 * 4 * 4).reshape(3, 2, 4, 4), torch.arange(3)
    boxes = [torch.full((n, 4), float(n)) for n in range(3)]
    sizes = [(4, 4), (3, 4), (4, 3)]
    for batch in (
        Batch(images, indices + 5, indices),
        SegmentationBatch(images, images[:, 0], indices),
        ObjectBatch(images, sizes, sizes, boxes, boxes, None, indices),
    ):
        fewer, more = resized(batch, 2), resized(batch, 5)
        assert type(fewer) is type(more) is type(batch)
        assert torch.equal(fewer.images, images[:2])
        assert torch.equal(more.images, images[[0, 1, 2, 0, 1]])
        assert more.indices.tolist() == [0, 1, 2, 0, 1]
        assert resized(batch, 3) is batch
    assert more.sizes == [*sizes, *sizes[:2]]
    assert [len(item) for item in more.boxes] == [0, 1, 2, 0, 1]


@needs_gpu
def test_check_measures_the_memory_of_a_gpu(tmp_path: Path) -> None:
    found = check(compose("check", [*SMALL, f"run.root={tmp_path}", "largest_batch=true"]))
    assert found["memory"].endswith(" MiB at most in a step")
    assert found["largest_batch"].endswith(" images on each GPU, the largest power of two that fits")
