"""The image size as a function of the epoch."""

import pytest

from convatlas.data.transforms.progressive import ProgressiveSize
from convatlas.errors import UserError


def test_it_is_constant_outside_the_ramp_and_linear_inside() -> None:
    size = ProgressiveSize(start=128, end=224, epochs=11, ramp=(0.2, 0.8))
    assert [size(epoch) for epoch in range(11)] == [128, 128, 128, 128, 160, 192, 192, 192, 224, 224, 224]


def test_multiples_are_rounded_to_the_nearest() -> None:
    size = ProgressiveSize(start=8, end=20, epochs=5, ramp=(0.0, 1.0), multiple=4)
    assert [size(epoch) for epoch in range(5)] == [8, 12, 16, 16, 20]


@pytest.mark.parametrize("epochs", [1, 2, 3, 90])
def test_the_last_epoch_has_the_full_size(epochs: int) -> None:
    assert ProgressiveSize(start=128, end=224, epochs=epochs)(epochs - 1) == 224


@pytest.mark.parametrize(
    ("start", "end", "ramp", "multiple", "message"),
    [
        (100, 192, (0.0, 0.8), 32, r"augment\.image_size: .*multiples of 32"),
        (96, 200, (0.0, 0.8), 32, r"augment\.image_size: .*multiples of 32"),
        (0, 32, (0.0, 0.8), 32, r"augment\.image_size: .*multiples of 32"),
        (128, 32, (0.0, 0.8), 32, r"augment\.image_size\.start=128: expected at most the end, 32"),
        (32, 64, (0.8, 0.8), 32, r"augment\.image_size\.ramp=\[0\.8, 0\.8\]: expected two rising shares"),
        (32, 64, (0.0, 1.5), 32, r"augment\.image_size\.ramp=\[0\.0, 1\.5\]: expected two rising shares"),
    ],
)
def test_ramps_that_cannot_be_are_refused(
    start: int, end: int, ramp: tuple[float, float], multiple: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ProgressiveSize(start=start, end=end, epochs=5, ramp=ramp, multiple=multiple)
