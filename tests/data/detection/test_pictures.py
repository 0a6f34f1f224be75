import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from convatlas.data.detection.pictures import objects_png


def drawn(size: tuple[int, int], channels: int = 3, count: int = 1, masks: bool = True) -> NDArray[np.uint8]:
    """A grey image with objects of class 0, 1 … whose masks are the left half of the box."""
    height, width = size
    image = torch.full((channels, height, width), 128, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, width / 2, height / 2]]).repeat(count, 1)
    pixels = torch.zeros(count, height, width, dtype=torch.bool)
    pixels[:, : height // 2, : width // 4] = True
    png = objects_png(image, boxes, list(range(count)), ["shape"] * count, pixels if masks else None)
    return np.asarray(Image.open(io.BytesIO(png)))


@pytest.mark.parametrize("size", [(24, 40), (1000, 400)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_in_colour_and_of_a_size_to_look_at(size: tuple[int, int], channels: int) -> None:
    picture = drawn(size, channels)
    assert max(picture.shape[:2]) == 320
    assert picture.shape[2] == 3


def test_masks_are_tinted_and_what_surrounds_objects_is_as_it_was() -> None:
    picture = drawn((320, 320))
    assert (picture[200:, 200:] == 128).all()
    assert np.ptp(picture[60, 40]) > 40
    assert (picture[60, 120] == 128).all()
    assert (drawn((320, 320), masks=False)[60, 40] == 128).all()


def test_an_image_without_objects_is_drawn_alone() -> None:
    assert (drawn((320, 320), count=0) == 128).all()


def test_classes_have_colours_of_their_own() -> None:
    image = torch.zeros(3, 320, 320, dtype=torch.uint8)
    colours = set()
    for label in range(20):
        png = objects_png(image, torch.tensor([[10.0, 10, 300, 300]]), [label], [""])
        colours.add(tuple(np.asarray(Image.open(io.BytesIO(png)))[200, 10]))
    assert len(colours) == 20
