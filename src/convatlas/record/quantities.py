"""The table of quantities: label, unit and direction of every metric, and how values are written as text."""

from dataclasses import dataclass
from typing import Literal

from convatlas.record.reader import number

SPLITS = {"train": "Train", "val": "Validation"}


@dataclass(frozen=True)
class Quantity:
    """A quantity that is logged or reported. The name of a metric is a split and a quantity: ``val/top1``.

    Attributes:
        name: Its name in the record, such as ``top1``.
        label: Its name in text, such as ``top-1``.
        unit: ``%`` for a fraction from 0 to 1, which is written as a percentage; empty for any other number.
        mode: Whether a larger or a smaller value is better.
    """

    name: str
    label: str
    unit: Literal["%", ""] = "%"
    mode: Literal["max", "min"] = "max"


_PRECISIONS = [
    Quantity(f"{kind}_{name}", f"{kind} {label}")
    for kind in ("box", "mask")
    for name, label in (
        ("map", "mAP"),
        ("map_50", "mAP 50"),
        ("map_75", "mAP 75"),
        ("map_small", "mAP small"),
        ("map_medium", "mAP medium"),
        ("map_large", "mAP large"),
        ("mar_100", "mAR 100"),
    )
]
QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("loss", "loss", unit="", mode="min"),
        Quantity("top1", "top-1"),
        Quantity("top5", "top-5"),
        Quantity("mean_iou", "mean IoU"),
        Quantity("pixel_accuracy", "pixel accuracy"),
        Quantity("mean_accuracy", "mean accuracy"),
        Quantity("frequency_weighted_iou", "frequency weighted IoU"),
        *_PRECISIONS,
        Quantity("data_wait", "data wait", mode="min"),
    )
}


def quantity(metric: str) -> Quantity:
    """The quantity of a metric, which may also be given as ``best val/top1``.

    One that is not in the table is a plain number; it is better when larger, unless its name ends with ``loss``.
    """
    name = metric.rpartition("/")[2]
    mode: Literal["max", "min"] = "min" if name.endswith("loss") else "max"
    return QUANTITIES.get(name) or Quantity(name, name.replace("_", " "), unit="", mode=mode)


def is_fraction(metric: str) -> bool:
    """Whether a metric is a fraction from 0 to 1, which is written as a percentage."""
    return quantity(metric).unit == "%"


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of a metric is better."""
    return quantity(metric).mode == "min"


def split_name(metric: str) -> str:
    """The name of a metric's split in a legend."""
    split = metric.partition("/")[0]
    return SPLITS.get(split, split.capitalize())


def metric_label(name: str, capital: bool = True) -> str:
    """The name of a metric in text: ``test/top1`` becomes ``Test top-1``."""
    split, _, _ = name.rpartition("/")
    text = f"{split} {quantity(name).label}".strip()
    return text[:1].upper() + text[1:] if capital else text


def metric_text(name: str, value: object, digits: int = 2) -> str:
    """A metric's value: a fraction as a percentage, another finite number with four significant digits.

    Args:
        name: The metric.
        value: Its value; a text such as ``NaN`` is returned unchanged, and None is a dash.
        digits: Decimal places of a percentage.
    """
    finite = number(value)
    if finite is None:
        return "–" if value is None else str(value)
    return f"{100 * finite:.{digits}f} %" if is_fraction(name) else f"{finite:.4g}"


def terminal_text(name: str, value: object) -> str:
    """A metric's value on the terminal: as ``metric_text``, but a loss has four decimal places."""
    finite = number(value)
    is_loss = finite is not None and name.endswith("loss")
    return f"{finite:.4f}" if is_loss else metric_text(name, value)


def named_text(name: str, value: object) -> str:
    """A metric with its name on the terminal: ``test/top1 92.31 %``."""
    return f"{name} {terminal_text(name, value)}"


def spread_text(name: str, mean: float, deviation: float | None) -> str:
    """A mean with its standard deviation: ``91.20 ± 0.31 %``, ``0.412 ± 0.01``."""
    if deviation is None:
        return metric_text(name, mean)
    if is_fraction(name):
        return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    return f"{mean:.4g} ± {deviation:.2g}"


def short_count(count: int) -> str:
    """A large count with a unit: ``269.72 k``."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def duration_text(seconds: float) -> str:
    """A duration in the units that suit it: ``3 h 25 min``, ``4 min 5 s``, ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
