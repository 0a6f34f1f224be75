"""What networks say of whole images: tiles, mirrored borders, scales, mirror images."""

from typing import Any

import pytest
import torch
from torch import nn

from convatlas.errors import UserError
from convatlas.models.classification.resnet import CifarResNet
from convatlas.models.segmentation.fcn import FCN
from convatlas.models.segmentation.unet import UNet
from convatlas.tasks.segmentation.protocols import DenseViews, mirrored_around


def unet(levels: int = 3, **arguments: Any) -> UNet:
    """Of three levels, a border of 20 pixels and pools that meet every 4."""
    torch.manual_seed(0)
    return UNet(width=2, levels=levels, num_classes=3, in_channels=1, **arguments).eval().double()


@pytest.mark.parametrize("tile", [44, 52, 72])
@pytest.mark.parametrize("size", [(90, 70), (16, 16), (33, 61)])
def test_tiles_say_what_the_whole_image_says(tile: int, size: tuple[int, int]) -> None:
    net = unet()
    images = torch.rand(2, 1, *size, dtype=torch.float64)
    with torch.inference_mode():
        whole = torch.stack(DenseViews()(net, list(images)))
        tiled = torch.stack(DenseViews(tile=tile)(net, list(images)))
    assert whole.shape == (2, 3, *size)
    torch.testing.assert_close(tiled, whole)
    assert whole.std() > 0.01


def test_where_the_image_is_enough_the_mirrored_border_changes_nothing() -> None:
    net = unet()
    image = torch.rand(1, 1, 72, 72, dtype=torch.float64)
    with torch.inference_mode():
        whole = torch.stack(DenseViews()(net, list(image)))
        valid = net(image).float().log_softmax(dim=1)
    assert valid.shape == (1, 3, 32, 32)
    torch.testing.assert_close(whole[:, :, 20:52, 20:52], valid)


def test_borders_are_mirrored_and_not_repeated() -> None:
    row = torch.arange(4.0).view(1, 1, 1, 4)
    assert mirrored_around(row, 3, 7, 12)[0, 0, 3].tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]
    narrow = torch.arange(2.0).view(1, 1, 1, 2)
    assert mirrored_around(narrow, 3, 4, 8)[0, 0, 3].tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert mirrored_around(torch.ones(1, 1, 1, 1), 2, 5, 5).sum() == 25


def test_padded_networks_take_images_of_any_size() -> None:
    net = unet(padding="same", batch_norm=True)
    images = [torch.rand(1, *size, dtype=torch.float64) for size in ((33, 50), (16, 16), (33, 50), (1, 1))]
    with torch.inference_mode():
        found = DenseViews()(net, images)
        assert [tuple(each.shape) for each in found] == [(3, 33, 50), (3, 16, 16), (3, 33, 50), (3, 1, 1)]
        torch.testing.assert_close(found[2], DenseViews()(net, images[2:3])[0])


def test_tiles_are_for_networks_without_padding() -> None:
    with pytest.raises(UserError, match=r"protocol\.views\.tile: expected null"):
        DenseViews(tile=256)(unet(padding="same"), [torch.rand(1, 300, 300, dtype=torch.float64)])
    with pytest.raises(UserError, match="expected 188 or a multiple of 16 more"):
        DenseViews(tile=256)(unet(levels=5), [torch.rand(1, 300, 300, dtype=torch.float64)])
    with pytest.raises(UserError, match=r"protocol\.views\.tile=188: expected at least 204"):
        DenseViews(tile=188)(unet(levels=5), [torch.rand(1, 300, 300, dtype=torch.float64)])


def test_scales_and_mirror_images_are_averaged_as_probabilities() -> None:
    torch.manual_seed(0)
    net = FCN(backbone=CifarResNet(depth=8), num_classes=3).eval()
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        (found,) = DenseViews(scales=(0.5, 1.0), flip=True)(net, list(image))
        expected = torch.zeros(1, 3, 32, 48)
        for size in ((16, 24), (32, 48)):
            seen = nn.functional.interpolate(image, size=size, mode="bilinear")
            for mirrored in (False, True):
                logits = net(seen.flip(-1)).flip(-1) if mirrored else net(seen)
                expected += nn.functional.interpolate(logits, size=(32, 48), mode="bilinear").softmax(dim=1) / 4
    torch.testing.assert_close(found.exp(), expected[0])
    assert torch.allclose(found.exp().sum(dim=0), torch.ones(()))


def test_a_mirrored_image_gets_the_mirrored_answer() -> None:
    torch.manual_seed(0)
    net = FCN(backbone=CifarResNet(depth=8), num_classes=3).eval()
    image = torch.randn(3, 32, 32)
    with torch.inference_mode():
        first, second = DenseViews(flip=True)(net, [image, image.flip(-1)])
    torch.testing.assert_close(second, first.flip(-1))
