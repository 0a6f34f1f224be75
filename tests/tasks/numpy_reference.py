"""The metrics of segmentation, computed class by class from the pixels themselves."""

import numpy as np
from numpy.typing import NDArray


def reference(classes: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int, void: int) -> dict[str, float]:
    """Metrics of predicted classes and labels, any shape."""
    classes, labels = classes[labels != void], labels[labels != void]
    ious, recalls, frequency_weighted = [], [], 0.0
    for number in range(num_classes):
        said, there = classes == number, labels == number
        union = int((said | there).sum())
        if union:
            ious.append((said & there).sum() / union)
            frequency_weighted += there.sum() / len(labels) * ious[-1]
        if there.any():
            recalls.append((said & there).sum() / there.sum())
    return {
        "mean_iou": float(np.mean(ious)),
        "pixel_accuracy": float((classes == labels).mean()),
        "mean_accuracy": float(np.mean(recalls)),
        "frequency_weighted_iou": float(frequency_weighted),
    }
