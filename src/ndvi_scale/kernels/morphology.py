"""Cloud in scene classes grown and shrunk by a disk. Plain arrays in, plain arrays out.

Eroding cloud is growing what is clear, so there is one step: what bears a label grows onto what bears the other.
Pixels without data bear none: they grow nowhere, and nothing grows onto them.

A step takes two passes: how far off the next pixel of the label is in each column; then, row by row, whether one
lies in the disk, which for each column of the disk is a comparison with its half-height there, on bytes, many at a
time. Uses one thread and releases the GIL, as `cpu` does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numba
import numpy as np

from ndvi_scale.kernels import ADDED, CLASS_BITS, CLOUD, NO_CLASS, REMOVED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Step = tuple[bool, int]
    """Whether cloud grows or what is clear, and by how many pixels."""

MAX_RADIUS: Final = 254
"""Distances are bytes, and one of them says that there is nothing so near."""

_CLASSES: Final = range(1, 12)
_NEITHER, _CLEAR, _CLOUDY = range(3)


def filter_classes(scl: NDArray[np.uint8], table: NDArray[np.uint8], steps: Sequence[Step]) -> NDArray[np.uint8]:
    """Scene classes, shape (y, x), after steps that were taken one after the other.

    `table`: bits of each class, `CLOUD` where it is cloud, shape (256,). `steps`: each grows cloud, or all that is
    none, by a disk of a radius of 1 to `MAX_RADIUS` pixels: onto whatever lies within ``dx² + dy² <= radius²``.
    A pixel that became cloud is its class | `ADDED`, one that is cloud no more its class | `REMOVED`, a value
    above 11 is `NO_CLASS`; all others are what they were. No data (0), no class, and what lies outside of the array
    take no part. Raises ValueError for another radius.
    """
    labels = np.full(256, _NEITHER, np.uint8)
    labels[_CLASSES] = np.where(table[_CLASSES] & CLOUD, _CLOUDY, _CLEAR)
    state, out = np.empty(scl.shape, np.uint8), np.empty(scl.shape, np.uint8)
    _look_up(labels, scl, state)
    for cloud_grows, radius in steps:
        if not 0 < radius <= MAX_RADIUS:
            raise ValueError(f"radius {radius} cannot be: give 1 to {MAX_RADIUS} pixels")
        label = _CLOUDY if cloud_grows else _CLEAR
        if (state == label).any():
            _grow(state, label, _half_heights(radius))
    _mark_changes(_marked(labels), state, scl, out)
    return out


def plain_classes(filtered: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Classes as they were before they were filtered; `NO_CLASS` stays."""
    return np.where(filtered == NO_CLASS, NO_CLASS, filtered & CLASS_BITS).astype(np.uint8)


def _half_heights(radius: int) -> NDArray[np.uint8]:
    """How far a disk reaches up and down in the column `dx` off its middle, for dx from 0 to its radius."""
    return np.array([math.isqrt(radius**2 - dx**2) for dx in range(radius + 1)], np.uint8)


def _marked(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What becomes of each value by the label that it has in the end, shape (3, 256)."""
    values = np.full((3, 256), NO_CLASS, np.uint8)
    values[_NEITHER, 0] = 0
    for number in _CLASSES:
        was_cloud = labels[number] == _CLOUDY
        values[_CLEAR, number] = number | (REMOVED if was_cloud else 0)
        values[_CLOUDY, number] = number | (0 if was_cloud else ADDED)
    return values


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _look_up(table, index, out):
    for y in range(index.shape[0]):
        source, target = index[y], out[y]
        for x in range(source.size):
            target[x] = table[source[x]]


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _mark_changes(values, state, scl, out):
    for y in range(state.shape[0]):
        labels, classes, target = state[y], scl[y], out[y]
        for x in range(labels.size):
            target[x] = values[labels[x], classes[x]]


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _grow(state, label, half_heights):
    radius = half_heights.size - 1
    label, other = np.uint8(label), np.uint8(_CLEAR + _CLOUDY - label)
    distance = _column_distances(state, label, np.uint8(radius + 1))
    width = state.shape[1]
    hit = np.empty(width, np.uint8)
    near = np.full(width + 2 * radius, np.uint8(radius + 1), np.uint8)  # a row, and nothing on either side of it
    middle = near[radius : radius + width]
    for y in range(state.shape[0]):
        if not _any_within(distance[y], half_heights[0]):
            continue
        _begin(distance[y], half_heights[0], middle, hit)
        for dx in range(1, radius + 1):
            west, east = near[radius - dx : radius - dx + width], near[radius + dx : radius + dx + width]
            _mark(west, east, half_heights[dx], hit)
        _relabel(state[y], hit, label, other)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _column_distances(state, label, far):
    """Rows from each pixel to the next of the label in its column; `far` where there is none nearer than that."""
    found = np.empty(state.shape, np.uint8)
    height, width = state.shape
    for x in range(width):
        found[0, x] = 0 if state[0, x] == label else far
    last = np.uint8(far - np.uint8(1))
    for y in range(1, height):
        here, above, below = state[y], found[y - 1], found[y]
        for x in range(width):
            below[x] = np.uint8(0) if here[x] == label else np.uint8(min(above[x], last) + np.uint8(1))
    for y in range(height - 2, -1, -1):
        above, below = found[y], found[y + 1]
        for x in range(width):
            above[x] = min(above[x], np.uint8(min(below[x], last) + np.uint8(1)))
    return found


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _any_within(distances, reach):
    found = np.uint8(0)
    for x in range(distances.size):
        found = np.uint8(found | np.uint8(distances[x] <= reach))
    return found != 0


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _begin(distances, reach, middle, hit):
    for x in range(hit.size):
        middle[x] = distances[x]
        hit[x] = np.uint8(distances[x] <= reach)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _mark(west, east, reach, hit):
    for x in range(hit.size):
        hit[x] = np.uint8(hit[x] | np.uint8(west[x] <= reach) | np.uint8(east[x] <= reach))


@numba.njit(nogil=True, error_model="numpy", cache=True)
def _relabel(row, hit, label, other):
    for x in range(row.size):
        row[x] = label if (hit[x] != 0) & (row[x] == other) else row[x]
