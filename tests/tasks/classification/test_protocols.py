"""The papers' test protocols: where each view of an image lies."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from convatlas.config.composition import compose
from convatlas.data.batch import ViewBatch
from convatlas.data.classification.module import ClassificationDataModule
from convatlas.errors import UserError
from convatlas.tasks.classification.protocols import Dense, SquareCrops, TenCrop
from tests.fixtures import write_image_folder


def coordinates(height: int, width: int) -> Tensor:
    """An image whose pixels say where they are: column, row, 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows, torch.zeros_like(rows)]).to(torch.uint8)


def top_left(view: Tensor) -> tuple[int, int]:
    """Row and column of a view's first pixel; its last must lie as far as it is large."""
    row, column = int(view[1, 0, 0]), int(view[0, 0, 0])
    assert (int(view[1, -1, -1]) - row, int(view[0, -1, -1]) - column) == (view.shape[1] - 1, view.shape[2] - 1)
    return row, column


def test_ten_crops_are_corners_and_centre_of_the_central_square_and_their_mirror_images() -> None:
    (stack,) = TenCrop(size=32, resize=40)(coordinates(40, 60))
    assert stack.shape == (10, 3, 32, 32)
    assert [top_left(view) for view in stack[:5]] == [(0, 10), (0, 18), (8, 10), (8, 18), (4, 14)]
    assert torch.equal(stack[5:], stack[:5].flip(-1))


def test_dense_views_are_the_whole_image_at_each_scale() -> None:
    image = coordinates(48, 64)
    small, large = Dense(size=32, sizes=[36, 60])(image)
    assert (small.shape, large.shape) == ((2, 3, 36, 48), (2, 3, 60, 80))
    assert torch.equal(large[0], TF.resize(image, [60], antialias=True))
    assert torch.equal(large[1], large[0].flip(-1))


@pytest.mark.parametrize("upright", [False, True])
def test_144_crops_are_six_of_each_of_three_squares_at_four_scales(upright: bool) -> None:
    image = coordinates(70, 40) if upright else coordinates(40, 70)
    (stack,) = SquareCrops(size=32, sizes=[40, 44, 48, 52])(image)
    assert stack.shape == (144, 3, 32, 32)
    assert torch.equal(stack[72:], stack[:72].flip(-1))
    # At the first scale, where the image stays as it is: three squares, five crops of each, and the square resized.
    for square, start in enumerate((0, 15, 30)):
        views = stack[6 * square : 6 * square + 6]
        within = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
        expected = [(row + start, column) if upright else (row, column + start) for row, column in within]
        assert [top_left(view) for view in views[:5]] == expected
        whole = image[:, start : start + 40] if upright else image[:, :, start : start + 40]
        assert torch.equal(views[5], TF.resize(whole, [32, 32], antialias=True))


def test_views_that_an_image_cannot_give_are_refused() -> None:
    with pytest.raises(UserError, match=r"data\.resize=None: ten crops of 32 pixels need a larger square"):
        TenCrop(size=32, resize=None)
    with pytest.raises(UserError, match=r"protocol\.views\.sizes=\[28, 40\]: .* at least data\.image_size=32"):
        Dense(size=32, sizes=[28, 40])
    with pytest.raises(UserError, match=r"protocol\.views\.sizes=\[32\]: .* above data\.image_size=32"):
        SquareCrops(size=32, sizes=[32])


def views_of(root: Path, threads: int) -> list[ViewBatch]:
    settings = ["data=imagefolder", f"data.root={root}", "data.image_size=32", "data.global_batch_size=60"]
    data: ClassificationDataModule = instantiate(compose("evaluate", [*settings, f"data.threads={threads}"]).data)
    data.views = TenCrop(size=32, resize=40)
    return list(data.test_dataloader())


def test_every_image_is_shown_once_in_batches_as_large_as_without_views(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=10, size=44)
    one, several = views_of(root, 1), views_of(root, 3)
    num_samples = sum(len(batch.images) for batch in one)
    assert {len(batch.images) for batch in one[:-1]} == {6}
    assert torch.equal(torch.cat([batch.indices for batch in one]), torch.arange(num_samples))
    for first, second in zip(one, several, strict=True):
        assert torch.equal(first.labels, second.labels)
        for mine, theirs in zip(first.images, second.images, strict=True):
            assert torch.equal(mine[0], theirs[0])


def test_views_are_normalised_as_images_are(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path, ["a", "b"], per_class=10, size=44)
    data: ClassificationDataModule = instantiate(
        compose("evaluate", ["data=imagefolder", f"data.root={root}", "data.image_size=32"]).data
    )
    data.views = Dense(size=32, sizes=[32])
    batch = next(iter(data.test_dataloader()))
    expected = TF.normalize(batch.images[0][0].float() / 255, data.mean, data.std)
    torch.testing.assert_close(data.on_after_batch_transfer(batch, 0).images[0][0], expected)
