"""Find mistakes in the data from the label counts of the splits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.dataset import Split

Counts = NDArray[np.signedinteger[Any]]
"""Number of images, objects or pixels of each class, (num_classes,)."""
SHOWN = 5
"""Classes that a message names."""


def absent_classes(
    data: str | None, kind: str, names: Sequence[str], counts: Mapping[Split, Counts], hint: str = ""
) -> list[str]:
    """Describe the classes that do not occur in a split.

    Args:
        data: The name of the data set.
        kind: The counted unit: ``image``, ``object`` or ``pixel``.
        names: The names of all classes.
        counts: By split.
        hint: A possible cause if a class is absent.

    Returns:
        One line for the splits that lack the same classes.
    """
    splits: dict[tuple[str, ...], list[str]] = {}
    for split, of_class in counts.items():
        absent = tuple(name for name, count in zip(names, of_class.tolist(), strict=True) if not count)
        splits.setdefault(absent, []).append(split)
    lines = []
    for absent, lacking in splits.items():
        where = f"data={data}: {', '.join(lacking)}: no {kind}"
        rest = ", …" if len(absent) > SHOWN else ""
        if len(absent) == len(names):
            lines.append(f"{where} of any class, so that there are no metrics")
        elif absent:
            lines.append(f"{where} of {len(absent)} of {len(names)} classes: {', '.join(absent[:SHOWN])}{rest}{hint}")
    return lines
