"""Training on small images first: the image size as a function of the epoch."""

from dataclasses import dataclass

import numpy as np

from convatlas.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ProgressiveSize:
    """A linear ramp between two sizes, rounded to a multiple; constant before and behind it.

    Progressive resizing of fast.ai; FFCV's ImageNet recipes go from 160 to 192 pixels.

    Args:
        start: Side in pixels before the ramp.
        end: Side in pixels behind it, and in the last epoch.
        epochs: Epochs of the training.
        ramp: Where it begins and ends, as shares of the way from the first epoch to the last.
        multiple: Sizes are multiples of this: 32 is what the networks' strides divide.

    Raises:
        UserError: A size that is no such multiple, or a ramp that falls or ends before it begins.
    """

    start: int
    end: int
    epochs: int
    ramp: tuple[float, float] = (0.0, 0.8)
    multiple: int = 32

    def __post_init__(self) -> None:
        if self.multiple < 1 or self.start < 1 or self.start % self.multiple or self.end % self.multiple:
            raise UserError(f"augment.image_size: {self}: expected start and end to be multiples of {self.multiple}")
        if self.start > self.end:
            raise UserError(f"augment.image_size.start={self.start}: expected at most the end, {self.end}")
        if not 0 <= self.ramp[0] < self.ramp[1] <= 1:
            raise UserError(f"augment.image_size.ramp={list(self.ramp)}: expected two rising shares from 0 to 1")

    def __call__(self, epoch: int) -> int:
        """The side in pixels of the images of an epoch, counted from zero."""
        way = epoch / (self.epochs - 1) if self.epochs > 1 else 1.0
        side = np.interp(way, self.ramp, [self.start, self.end])
        return round(float(side) / self.multiple) * self.multiple
