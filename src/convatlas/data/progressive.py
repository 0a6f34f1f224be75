"""Training on small images first: the image size as a function of the epoch."""

from dataclasses import dataclass

import numpy as np

from convatlas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ProgressiveSize:
    """A linear ramp between two sizes, rounded to a multiple; constant before and behind it.

    Progressive resizing of fast.ai; FFCV's ImageNet recipes go from 160 to 192 pixels.

    Args:
        start: Side in pixels up to ``start_epoch``.
        end: Side in pixels from ``end_epoch`` on.
        start_epoch: Where the ramp begins, counted from zero.
        end_epoch: Where it ends.
        multiple: Sizes in between are rounded to a multiple of this: 32 is what the networks' strides divide.

    Raises:
        UserError: A size that is no such multiple, or a ramp that ends before it begins.
    """

    start: int
    end: int
    start_epoch: int
    end_epoch: int
    multiple: int = 32

    def __post_init__(self) -> None:
        if self.multiple < 1 or min(self.start, self.end) < 1 or self.start % self.multiple or self.end % self.multiple:
            raise UserError(f"{self}: expected start and end to be positive multiples of multiple={self.multiple}")
        if not 0 <= self.start_epoch < self.end_epoch:
            raise UserError(f"{self}: expected 0 <= start_epoch < end_epoch")

    def __call__(self, epoch: int) -> int:
        """The side in pixels of the images of an epoch."""
        side = np.interp(epoch, [self.start_epoch, self.end_epoch], [self.start, self.end])
        return round(float(side) / self.multiple) * self.multiple
