"""The image size as a function of the epoch."""

import pytest

from convatlas.data.progressive import ProgressiveSize
from convatlas.errors import UserError


def test_it_is_constant_outside_the_ramp_and_linear_inside() -> None:
    size = ProgressiveSize(start=128, end=224, start_epoch=2, end_epoch=8)
    assert [size(epoch) for epoch in range(11)] == [128, 128, 128, 128, 160, 192, 192, 192, 224, 224, 224]


def test_it_can_go_down_in_other_multiples() -> None:
    size = ProgressiveSize(start=20, end=8, start_epoch=0, end_epoch=4, multiple=4)
    assert [size(epoch) for epoch in range(6)] == [20, 16, 16, 12, 8, 8]


@pytest.mark.parametrize(
    ("start", "end", "start_epoch", "end_epoch", "multiple"),
    [(100, 192, 0, 5, 32), (96, 200, 0, 5, 32), (0, 32, 0, 5, 32), (32, 64, 5, 5, 32), (32, 64, -1, 5, 32)],
)
def test_ramps_that_cannot_be_are_refused(
    start: int, end: int, start_epoch: int, end_epoch: int, multiple: int
) -> None:
    with pytest.raises(UserError, match=r"ProgressiveSize\(.*expected"):
        ProgressiveSize(start=start, end=end, start_epoch=start_epoch, end_epoch=end_epoch, multiple=multiple)
