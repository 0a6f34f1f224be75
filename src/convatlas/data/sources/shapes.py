"""Scenes of overlapping shapes: images with boxes, classes and masks, made on demand.

A scene is a function of (seed, index, image size), so that a data set of any size needs no file. What a shape is
called depends on its outline alone: colours, textures, sizes and angles are drawn from the same ranges for all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CLASSES = ("circle", "square", "triangle", "star")
MAX_SHAPES = 5
IGNORE_INDEX = 255
"""Semantic label of the pixels around outlines, as in VOC."""

MIN_VISIBLE = 0.5
"""Smallest share of a shape that other shapes and the border leave visible."""
MIN_CONTRAST = 70.0
"""Smallest distance in RGB between a shape's colour and the mean of its background."""


@dataclass(frozen=True)
class Scene:
    """An image and its shapes, from the back to the front.

    Attributes:
        image: (H, W, 3) uint8.
        boxes: x0, y0, x1, y1 around the visible pixels, in pixels from the image's left and top edges, (N, 4) float32.
        labels: Positions in ``CLASSES``, (N,) int64.
        masks: Visible pixels of each shape, (N, H, W) bool; no pixel belongs to two.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]

    def semantic(self, *, void_boundaries: bool = True) -> NDArray[np.uint8]:
        """Class of each pixel, (H, W): 0 is the background, label + 1 a shape, ``IGNORE_INDEX`` an outline."""
        classes = (self.masks * (self.labels + 1).astype(np.uint8)[:, None, None]).sum(axis=0, dtype=np.uint8)
        return self._with_void(classes) if void_boundaries else classes

    def instances(self, *, void_boundaries: bool = True) -> NDArray[np.uint8]:
        """Number of each pixel's shape from 1, (H, W), otherwise as ``semantic``."""
        numbers = np.arange(1, len(self.labels) + 1, dtype=np.uint8)
        shapes = (self.masks * numbers[:, None, None]).sum(axis=0, dtype=np.uint8)
        return self._with_void(shapes) if void_boundaries else shapes

    def _with_void(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        owner = np.where(self.masks.any(axis=0), self.masks.argmax(axis=0) + 1, 0)
        edge = np.zeros(owner.shape, np.bool_)
        for here, there in (
            ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
            ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ):
            differs = owner[here] != owner[there]
            edge[here] |= differs
            edge[there] |= differs
        return np.where(edge, np.uint8(IGNORE_INDEX), values)


def scene(seed: int, index: int, size: tuple[int, int] = (128, 128)) -> Scene:
    """Draw a scene of 1 to ``MAX_SHAPES`` shapes that may hide up to half of one another.

    Args:
        seed: Seed of the data set.
        index: Index of the scene.
        size: Height and width in pixels, at least 32 each.
    """
    generator = np.random.default_rng([seed, index, *size])
    height, width = size
    rows, columns = np.mgrid[0.5:height, 0.5:width]
    image = _texture(generator, rows, columns, generator.uniform(40, 215, 3), amplitude=25)
    background = image.mean(axis=(0, 1))
    masks = np.zeros((0, height, width), np.bool_)
    labels: list[int] = []
    areas: list[float] = []
    wanted = int(generator.integers(1, MAX_SHAPES + 1))
    while len(labels) < wanted:
        label = int(generator.integers(len(CLASSES)))
        outline = _outline(generator, label, size)
        whole = _inside(outline, rows, columns)
        hidden = np.concatenate([masks & ~whole, whole[None]])
        if (hidden.sum(axis=(1, 2)) < MIN_VISIBLE * np.array([*areas, _area(outline)])).any():
            continue
        colour = _contrasting(generator, background)
        image[whole] = _texture(generator, rows[whole], columns[whole], colour, amplitude=15)
        masks = hidden
        labels.append(label)
        areas.append(_area(outline))
    image += generator.normal(0, 6, image.shape)
    return Scene(image.clip(0, 255).astype(np.uint8), boxes_around(masks), np.array(labels, dtype=np.int64), masks)


def boxes_around(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The boxes (N, 4), x0, y0, x1, y1, of masks (N, H, W) that are not empty: edges of pixels, x1 and y1 exclusive."""
    boxes = np.empty((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _outline(generator: np.random.Generator, label: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """A polygon (K, 2) of x and y: vertices on a circle of random place, size and angle."""
    corners = {"circle": 40, "square": 4, "triangle": 3, "star": 10}[CLASSES[label]]
    radius = generator.uniform(0.13, 0.26) * min(size)
    radii = np.full(corners, radius)
    if CLASSES[label] == "star":
        radii[1::2] *= 0.42
    angles = generator.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    centre = generator.uniform(0.08, 0.92, 2) * size[::-1]
    outline: NDArray[np.float64] = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return outline


def _area(outline: NDArray[np.float64]) -> float:
    x, y = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _inside(outline: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the pixel centres, (H, W), inside a polygon: those with an odd number of its edges to their right."""
    inside = np.zeros(rows.shape, np.bool_)
    for (x0, y0), (x1, y1) in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        crossed = (y0 > rows) != (y1 > rows)
        inside[crossed] ^= (columns < x0 + (rows - y0) * ((x1 - x0) / ((y1 - y0) or 1)))[crossed]
    return inside


def _texture(
    generator: np.random.Generator,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    colour: NDArray[np.float64],
    amplitude: float,
) -> NDArray[np.float64]:
    """Waves of three random directions around a colour: positions (…) to RGB (…, 3)."""
    waves = np.zeros((*rows.shape, 3))
    for _ in range(3):
        frequency = generator.uniform(-0.25, 0.25, 2)
        wave = np.sin(rows * frequency[0] + columns * frequency[1] + generator.uniform(0, 2 * np.pi))
        waves += wave[..., None] * generator.uniform(-amplitude, amplitude, 3)
    return colour + waves


def _contrasting(generator: np.random.Generator, background: NDArray[np.float64]) -> NDArray[np.float64]:
    while True:
        colour = generator.uniform(20, 235, 3)
        if np.linalg.norm(colour - background) >= MIN_CONTRAST:
            return colour
