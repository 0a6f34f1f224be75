"""How metrics are written for a person: ``val/top1`` is the top-1 accuracy of validation, in per cent."""

import re

from convatlas.record.reader import number

SHARES = re.compile(r"top[15]|data_wait|.*_iou|.*_accuracy|(box|mask)_ma[pr].*")
"""Quantities from 0 to 1, which are shown in per cent."""

SPLITS = {"train": "Train", "val": "Validation"}


def is_share(metric: str) -> bool:
    """Whether a metric is shown in per cent."""
    return SHARES.fullmatch(metric.rpartition("/")[2]) is not None


def split_name(metric: str) -> str:
    """What the split of a metric is called in a legend."""
    split = metric.partition("/")[0]
    return SPLITS.get(split, split.capitalize())


def metric_label(name: str, capital: bool = True) -> str:
    """A metric as a person writes it: ``test/top1`` becomes ``Test top-1``."""
    text = name.replace("/", " ").replace("top1", "top-1").replace("top5", "top-5")
    text = text.replace("_", " ").replace("iou", "IoU").replace(" map", " mAP").replace(" mar ", " mAR ")
    return text[:1].upper() + text[1:] if capital else text


def metric_text(name: str, value: object, digits: int = 2) -> str:
    """A metric's value: shares in per cent, other numbers with four significant digits; else as it stands."""
    finite = number(value)
    if finite is None:
        return "–" if value is None else str(value)
    return f"{100 * finite:.{digits}f} %" if is_share(name) else f"{finite:.4g}"


def spread_text(name: str, mean: float, deviation: float | None) -> str:
    """A mean with its standard deviation: ``91.20 ± 0.31 %``, ``0.412 ± 0.01``."""
    if deviation is None:
        return metric_text(name, mean)
    if is_share(name):
        return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    return f"{mean:.4g} ± {deviation:.2g}"


def short_count(count: int) -> str:
    """A large count with three digits or so: ``269.72 k``."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)


def duration_text(seconds: float) -> str:
    """Seconds as a person says them: ``3 h 25 min``, ``4 min 5 s``, ``12.3 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"
