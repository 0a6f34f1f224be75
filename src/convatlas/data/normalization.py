"""Check the colours in a configuration: mean and std refer to pixels in [0, 1], a background to 0 to 255."""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol

from convatlas.data.images.decode import Background
from convatlas.errors import UserError

SMALLEST_STD = 1e-5
"""1/65535, the smallest scale that anybody uses, is larger; inputs of more than 100,000 overflow in half precision."""


class Composited(Protocol):
    """Images that are shown on a background."""

    background: Background


def check_mean(key: str, mean: Sequence[float]) -> None:
    """Refuse means that cannot be those of pixels in [0, 1].

    Args:
        key: The configuration key, for the message.
        mean: Mean of each channel.

    Raises:
        UserError: A number outside [0, 1].
    """
    if not all(0 <= value <= 1 for value in mean):
        raise UserError(f"{key}={_listed(mean)}: pixels are between 0 and 1; expected means in [0, 1]{_hint(mean)}")


def check_std(key: str, std: Sequence[float]) -> None:
    """Refuse standard deviations that pixels in [0, 1] cannot be divided by.

    Args:
        key: The configuration key, for the message.
        std: Standard deviation of each channel.

    Raises:
        UserError: A number that is not above 0 and up to 1.
    """
    if not all(SMALLEST_STD <= value <= 1 for value in std):
        raise UserError(
            f"{key}={_listed(std)}: pixels are between 0 and 1; expected standard deviations from {SMALLEST_STD} to 1"
            f"{_hint(std)}"
        )


def check_background(background: Background, in_channels: int) -> None:
    """Refuse a background that is not a colour.

    Raises:
        UserError: The background does not have an integer from 0 to 255 for each channel, or looks like a colour in
            [0, 1].
    """
    if background is None:
        return
    given, white = f"data.background={_listed(background)}", _listed([255] * in_channels)
    if len(background) != in_channels or not all(isinstance(value, int) and 0 <= value <= 255 for value in background):
        raise UserError(
            f"{given}: expected an integer from 0 to 255 for each of data.in_channels={in_channels} channels, such as "
            f"{white} for white"
        )
    if max(background) == 1:
        raise UserError(
            f"{given}: looks like a colour in [0, 1]; expected integers from 0 to 255, such as {white} for white"
        )


def set_background(sources: Iterable[Composited], background: Background, in_channels: int) -> None:
    """Set the colour behind transparent pixels.

    Args:
        sources: The images.
        background: The colour, 0 to 255 in each channel. None ignores the alpha channel.
        in_channels: 1 for greyscale, 3 for RGB.

    Raises:
        UserError: The background is not a colour.
    """
    check_background(background, in_channels)
    for source in sources:
        source.background = background


def _hint(values: Sequence[float]) -> str:
    """Suggest the values divided by 255, if they look as if they were meant for pixels from 0 to 255."""
    if all(math.isfinite(value) and 0 <= value <= 255 for value in values) and max(values) > 1:
        return f"; divide by 255: {_listed([round(value / 255, 4) for value in values])}"
    return ""


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(map(str, values))}]"
