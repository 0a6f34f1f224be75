"""Open the data set of a data module, with ``data.root`` or without one."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from convatlas.errors import UserError

DatasetT = TypeVar("DatasetT")


def open_with_root(dataset: Callable[..., DatasetT], name: str, in_channels: int, root: str | None) -> DatasetT:
    """Call a data set's function with ``in_channels`` and, where there is one, ``root``.

    Args:
        dataset: The function, a partial with its other arguments.
        name: The name of the data, for the message.
        in_channels: 1 for greyscale, 3 for RGB.
        root: The folder of the data set; None for one without files.

    Raises:
        UserError: The function takes no folder, needs one, or lacks another argument.
    """
    given = {} if root is None else {"root": root}
    try:
        inspect.signature(dataset).bind(in_channels, **given)
    except TypeError as error:
        raise UserError(f"data.root={root}, data.dataset: {name} cannot be opened with these ({error})") from error
    return dataset(in_channels, **given)
