"""Statistics of a data set: faults, equal images, classes and image sizes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convatlas.data.class_list import ClassList
from convatlas.data.sources.images import LabelledSource, Labels
from convatlas.data.sources.scan import passed_over_text
from convatlas.data.tools.verify import KINDS, Record
from convatlas.utils.files import printable


def statistics(
    sources: Mapping[str, LabelledSource],
    records: Mapping[str, Record],
    class_list: ClassList,
    image_size: int,
    passed_over: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Compute the statistics of all splits from their records, as built-in containers.

    Args:
        sources: The images by split.
        records: The records of the images, by split.
        class_list: The classes.
        image_size: Side of the network's input, in pixels.
        passed_over: Number of files that are not among the images, by suffix.

    Returns:
        ``ok``: whether training can go on; ``verdict``: the same in words; ``num_images``; ``passed_over``;
        ``image_size``; ``kinds``: severity, title, remark and count of each, zeros too; ``findings``: severity, kind,
        split, class, path and detail of each, errors first; ``equal_images``: sets with the same pixels,
        contradictions and leaks first; ``splits``: number, greyscale ones, classes and sizes of the images of each.
    """
    names = [printable(name) for name in class_list.names]
    findings = _findings(sources, records, names)
    sets = _equal_sets(sources, records, names)
    counts = Counter([finding["kind"] for finding in findings] + [kind for equal in sets for kind in equal["kinds"]])
    leaked = Counter(shown["split"] for equal in sets if "leakage" in equal["kinds"] for shown in equal["images"])
    num_images = sum(len(source.labels) for source in sources.values())
    num_errors = sum(finding["severity"] == "error" for finding in findings)
    classes = {split: class_balance(source.labels, names) for split, source in sources.items()}
    return {
        "ok": num_errors == 0,
        "verdict": " ".join(_verdict(num_images, num_errors, counts, classes, passed_over or {})),
        "num_images": num_images,
        "passed_over": dict(passed_over or {}),
        "image_size": image_size,
        "kinds": {name: {**asdict(kind), "count": counts[name]} for name, kind in KINDS.items()},
        "findings": findings,
        "equal_images": sets,
        "splits": {
            split: {
                "num_images": len(sources[split].labels),
                "undecodable": int((~record.decodable).sum()),
                "greyscale": int(record.grey.sum()),
                "leaked": leaked[split],
                "classes": classes[split],
                "sizes": image_sizes(record, image_size),
            }
            for split, record in records.items()
        },
    }


def equal_images(records: Sequence[Record]) -> Iterator[list[tuple[int, int]]]:
    """Find the images that have the same pixels; those with the same bytes are among them.

    Args:
        records: One a split.

    Yields:
        A set of at least two equal images: the split's position and the image's index of each, ascending; the sets in
        the order of their first images.
    """
    splits = np.concatenate([np.full(int(record.decodable.sum()), split) for split, record in enumerate(records)])
    indices = np.concatenate([np.flatnonzero(record.decodable) for record in records])
    digests = np.concatenate([record.pixel_digests[record.decodable] for record in records])
    keys = digests.view("<u8").reshape(-1, 2)
    order = np.lexsort(keys.T)
    keys = keys[order]
    first = np.flatnonzero(np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)]))
    sizes = np.diff(first, append=len(order))
    first, sizes = first[sizes > 1], sizes[sizes > 1]
    for place in np.argsort(order[first]).tolist():
        members = order[first[place] : first[place] + sizes[place]]
        yield list(zip(splits[members].tolist(), indices[members].tolist(), strict=True))


def class_balance(labels: Labels, names: Sequence[str]) -> dict[str, Any]:
    """Count the images of each class.

    Args:
        labels: The classes of a split's images, (N,).
        names: The names of all classes.

    Returns:
        ``counts`` by class; ``smallest`` and ``largest``, each a class and its count, and their ratio ``imbalance``,
        over the classes that have images; ``missing``, the classes that have none.
    """
    counts = np.bincount(labels, minlength=len(names))
    present = np.flatnonzero(counts)
    smallest, largest = (int(present[choose(counts[present])]) for choose in (np.argmin, np.argmax))
    return {
        "counts": dict(zip(names, counts.tolist(), strict=True)),
        "smallest": {"class": names[smallest], "count": int(counts[smallest])},
        "largest": {"class": names[largest], "count": int(counts[largest])},
        "imbalance": round(float(counts[largest] / counts[smallest]), 3),
        "missing": [names[label] for label in np.flatnonzero(counts == 0).tolist()],
    }


def image_sizes(record: Record, image_size: int) -> dict[str, Any]:
    """Describe the sizes of the images of a split that can be decoded, upright as training sees them.

    Args:
        record: The split.
        image_size: Side of the network's input, in pixels.

    Returns:
        ``smaller_than_image_size``, the images that have a side under ``image_size``; ``short_side``, a histogram; and,
        where there is an image, ``width``, ``height`` and ``megapixels`` with their ``min``, ``median`` and ``max``.
    """
    heights, widths = (sides[record.decodable].astype(np.int64) for sides in (record.heights, record.widths))
    if not len(heights):
        return {"smaller_than_image_size": 0, "short_side": []}
    short = np.minimum(heights, widths)
    return {
        "width": _spread(widths),
        "height": _spread(heights),
        "megapixels": _spread(heights * widths / 1e6),
        "smaller_than_image_size": int((short < image_size).sum()),
        "short_side": _histogram(short),
    }


def _image(split: str, source: LabelledSource, index: int, names: Sequence[str]) -> dict[str, Any]:
    label = int(source.labels[index])
    return {"split": split, "index": index, "class": names[label], "path": printable(source.path(index))}


def _findings(
    sources: Mapping[str, LabelledSource], records: Mapping[str, Record], names: Sequence[str]
) -> list[dict[str, Any]]:
    findings = [
        {
            "severity": KINDS[finding.kind].severity,
            "kind": finding.kind,
            **_image(split, sources[split], finding.index, names),
            "detail": printable(finding.detail),
        }
        for split, record in records.items()
        for finding in record.findings
    ]
    return sorted(findings, key=lambda finding: finding["severity"])  # stable: in the order of the images


def _equal_sets(
    sources: Mapping[str, LabelledSource], records: Mapping[str, Record], names: Sequence[str]
) -> list[dict[str, Any]]:
    splits = list(records)
    sets = [
        _set(
            [_image(splits[split], sources[splits[split]], index, names) for split, index in members],
            len({records[splits[split]].file_digests[index].tobytes() for split, index in members}),
        )
        for members in equal_images(list(records.values()))
    ]
    return sorted(sets, key=lambda equal: ("contradiction" not in equal["kinds"], "leakage" not in equal["kinds"]))


def _verdict(
    num_images: int,
    num_errors: int,
    counts: Mapping[str, int],
    classes: Mapping[str, Any],
    passed_over: Mapping[str, int],
) -> Iterator[str]:
    if num_errors:
        unusable = f"{num_errors:,} of {num_images:,} images cannot be decoded"
        yield f"Training would stop: {unusable}; data.on_error=skip leaves them out."
    else:
        yield f"Training can go on: all {num_images:,} images can be decoded."
    if counts["leakage"]:
        yield f"Images in several splits: {counts['leakage']:,}; results on them are better than on new images."
    if counts["contradiction"]:
        yield f"Images in several classes: {counts['contradiction']:,}; at most one label of each is right."
    for split, balance in classes.items():
        if balance["missing"]:
            yield f"Classes without images in {split}: {len(balance['missing']):,}."
    if passed_over:
        yield f"{passed_over_text(passed_over)}."


def _set(images: list[dict[str, Any]], num_files: int) -> dict[str, Any]:
    splits = Counter(image["split"] for image in images)
    kinds = {
        "contradiction": len({image["class"] for image in images}) > 1,
        "leakage": len(splits) > 1,
        "duplicate": max(splits.values()) > 1,
    }
    return {
        "kinds": [kind for kind, holds in kinds.items() if holds],
        "same": "bytes" if num_files == 1 else "pixels",
        "images": images,
    }


def _spread(values: NDArray[Any]) -> Mapping[str, float]:
    return {
        name: round(float(measure(values)), 6)
        for name, measure in (("min", np.min), ("median", np.median), ("max", np.max))
    }


def _histogram(sides: NDArray[np.int64]) -> list[dict[str, int]]:
    """Counts between 2ⁿ, 1.5 · 2ⁿ, 2ⁿ⁺¹ … pixels: narrow where sides are small, few for any range."""
    edges = np.unique([(2**n, 3 * 2**n // 2) for n in range(33)])
    counts = np.histogram(sides, edges)[0]
    shown = np.flatnonzero(counts)
    return [
        {"from": int(edges[bin]), "below": int(edges[bin + 1]), "count": int(counts[bin])}
        for bin in range(shown[0], shown[-1] + 1)
    ]
