"""The output grid, cut into objects: `Lattice` and `Region`. Pure arithmetic on GeoBoxes.

The lattice lies on the pixel grid of the MGRS tile that covers most of the AOI. Along an axis on which the AOI
fits into one object it begins where the AOI begins (snapped outward to whole SCL pixels); on a longer axis
it begins on a COG block border, so that no block of that tile is read for two objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

COG_BLOCK = 1024
"""Side in pixels of the internal blocks of Sentinel-2 COGs as Earth Search and Planetary Computer store them
(Planetary Computer: 512, which divides it)."""

PHASE = 1e-6
"""Part of a pixel by which borders may miss each other. A reprojected border lands a hair beside the pixel border
it was made from; without this it would drag in one more row of pixels."""

SQUARE = 64
"""Side in pixels of the squares that `centres_inside` decides at once."""

STRIP = 8192
"""Width in pixels of the strips of `in_strips`. Blocks that a region shares with the one below come again after a
row of the strip: narrow enough that 64 MiB of compressed blocks hold such a row, wide enough that few blocks lie on
the border of two strips (`benchmarks/order.py`)."""

Bounds = tuple[float, float, float, float]
"""left, bottom, right, top in a projected CRS, metres."""


Made = TypeVar("Made")


class PerGrid(Generic[Made]):
    """What is made once a grid, found by the grid object itself, which granules of a tile share.

    As keys of a dictionary a hundred thousand would cost a minute: a `GeoBox` is hashed with its CRS written out.
    """

    def __init__(self, make: Callable[[GeoBox], Made]) -> None:
        self._make = make
        self._made: dict[int, tuple[GeoBox, Made]] = {}  # holds the grid, so that its id stays its own

    def __getitem__(self, grid: GeoBox) -> Made:
        """What was made of a grid."""
        if id(grid) not in self._made:
            self._made[id(grid)] = grid, self._make(grid)
        return self._made[id(grid)][1]


def distinct(grids: Iterable[GeoBox]) -> list[GeoBox]:
    """Each once, in their order."""
    return list(dict.fromkeys({id(grid): grid for grid in grids}.values()))


class Region(NamedTuple):
    """One object of every variable: the unit of work, of writing and of resuming."""

    layer: int
    """Index along time."""
    iy: int
    """Row of objects, from north."""
    ix: int
    """Column of objects, from west."""


@dataclass(frozen=True)
class Window:
    """Rows and columns of a grid, half-open."""

    row: int
    column: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array with."""
        return slice(self.row, self.row + self.height), slice(self.column, self.column + self.width)

    def coarser(self, factor: int) -> Window:
        """What holds the same ground on a grid of pixels `factor` times as wide: snapped outward to whole ones."""
        top, left = self.row // factor, self.column // factor
        bottom, right = -(-(self.row + self.height) // factor), -(-(self.column + self.width) // factor)
        return Window(top, left, bottom - top, right - left)

    def finer(self, factor: int) -> Window:
        """The same ground on a grid of pixels `factor` times as narrow."""
        return Window(self.row * factor, self.column * factor, self.height * factor, self.width * factor)

    def moved(self, rows: int, columns: int) -> Window:
        """Moved down and right."""
        return Window(self.row + rows, self.column + columns, self.height, self.width)

    def grown(self, margin: int) -> Window:
        """So many pixels more on each side."""
        return Window(self.row - margin, self.column - margin, self.height + 2 * margin, self.width + 2 * margin)

    def overlap(self, other: Window) -> Window | None:
        """What two windows of one grid have in common; None if that is nothing."""
        top, left = max(self.row, other.row), max(self.column, other.column)
        bottom = min(self.row + self.height, other.row + other.height)
        right = min(self.column + self.width, other.column + other.width)
        return Window(top, left, bottom - top, right - left) if top < bottom and left < right else None


@dataclass(frozen=True)
class Lattice:
    """The whole output grid and the side of its objects."""

    geobox: GeoBox
    """Shape, affine and CRS of the whole output, y first."""
    side: int
    """Side of an object in pixels; objects at the south and east edge may be smaller."""

    @property
    def object_shape(self) -> tuple[int, int]:
        """Shape (y, x) of an object that is no smaller edge: never larger than the array."""
        return min(self.side, self.geobox.shape.y), min(self.side, self.geobox.shape.x)

    @cached_property
    def objects(self) -> tuple[int, int]:
        """Number of objects along (y, x)."""
        side_y, side_x = self.object_shape
        return math.ceil(self.geobox.shape.y / side_y), math.ceil(self.geobox.shape.x / side_x)

    def window(self, iy: int, ix: int) -> Window:
        """Rows and columns of the array that object (iy, ix) holds."""
        height, width = self.object_shape
        row, column = iy * height, ix * width
        shape = self.geobox.shape
        return Window(row, column, min(height, shape.y - row), min(width, shape.x - column))

    def region_geobox(self, iy: int, ix: int) -> GeoBox:
        """Grid of object (iy, ix)."""
        return self.geobox[self.window(iy, ix).slices]

    def objects_within(self, bounds: Bounds) -> Iterator[tuple[int, int]]:
        """Objects (iy, ix) of which `bounds` (left, bottom, right, top; lattice CRS) cover at least a pixel."""
        left, top = to_pixels(self.geobox, bounds[0], bounds[3])
        right, bottom = to_pixels(self.geobox, bounds[2], bounds[1])
        side_y, side_x = self.object_shape
        rows = _whole_range(max(top, 0), min(bottom, self.geobox.shape.y), side_y)
        columns = _whole_range(max(left, 0), min(right, self.geobox.shape.x), side_x)
        for iy in rows:
            for ix in columns:
                yield iy, ix


def in_strips(regions: Iterable[Region], lattice: Lattice) -> list[Region]:
    """Regions in the order in which they are computed, so that those that share blocks come soon after each other.

    Layer by layer; a layer in strips from the west, each from north to south, row by row.
    """
    wide = max(1, STRIP // lattice.side)
    return sorted(regions, key=lambda region: (region.layer, region.ix // wide, region.iy, region.ix))


def _whole_range(start: float, stop: float, side: int) -> range:
    if stop - start <= 0:
        return range(0)
    return range(int(start // side), math.ceil(stop / side))


def fit_lattice(bounds: Bounds, anchor: GeoBox, snap: int, side: int) -> Lattice:
    """The lattice over `bounds` (left, bottom, right, top in the CRS of `anchor`) on the anchor's grid.

    `anchor`: native grid of a granule, north up. `snap`: pixels along one SCL pixel; origin and shape are
    multiples of it from the anchor's origin, so that repeating SCL pixels never shifts. `side`: side of an
    object in pixels, a multiple of `snap`.
    """
    left, top = to_pixels(anchor, bounds[0], bounds[3])
    right, bottom = to_pixels(anchor, bounds[2], bounds[1])
    x0, x1 = _fit_axis(left, right, snap, side)
    y0, y1 = _fit_axis(top, bottom, snap, side)
    a, b, c, d, e, f = list(anchor.affine)[:6]
    affine = Affine(a, b, c + a * x0, d, e, f + e * y0)
    return Lattice(GeoBox((y1 - y0, x1 - x0), affine, anchor.crs), side)


def corner(grid: GeoBox) -> tuple[float, float]:
    """Coordinates x, y of the upper left corner of a north-up grid."""
    return grid.affine.c, grid.affine.f


def to_pixels(grid: GeoBox, x: float, y: float) -> tuple[float, float]:
    """Column and row, with fractions, of a point in a north-up grid's CRS."""
    left, top = corner(grid)
    return (x - left) / grid.affine.a, (y - top) / grid.affine.e


def _fit_axis(start: float, stop: float, snap: int, side: int) -> tuple[int, int]:
    first = math.floor(start / snap + PHASE) * snap
    last = math.ceil(stop / snap - PHASE) * snap
    if last - first > side:
        block = COG_BLOCK if side % COG_BLOCK == 0 and COG_BLOCK % snap == 0 else side
        first = first // block * block
    return first, max(last, first + snap)


def pixel_place(grid: GeoBox, other: GeoBox) -> tuple[int, int]:
    """Column and row in `grid` of the upper left pixel of `other`. Raises ValueError if it is between pixels."""
    column, row = to_pixels(grid, *corner(other))
    if abs(column - round(column)) > PHASE or abs(row - round(row)) > PHASE:
        raise ValueError(f"grids are out of phase by {column % 1:.3f}, {row % 1:.3f} pixels")
    return round(column), round(row)


def coarser_grid(grid: GeoBox, factor: int) -> GeoBox:
    """The same ground in pixels `factor` times as wide; its sides are multiples of it."""
    a, _, c, _, e, f = list(grid.affine)[:6]
    height, width = grid.shape
    return GeoBox((height // factor, width // factor), Affine(a * factor, 0, c, 0, e * factor, f), grid.crs)


def centres_inside(geobox: GeoBox, area: BaseGeometry) -> NDArray[np.bool_]:
    """True where the centre of a pixel lies in `area` (same CRS), shape (y, x).

    Point by point, so that the answer for a pixel does not depend on the grid around it, as it would in the last
    digit with a scan-line rasteriser. Squares wholly inside or outside are decided at once: 0.03 s in place of
    0.46 s for a 2048² region on the border of Haute-Garonne.
    """
    height, width = geobox.shape
    left, top = corner(geobox)
    x = left + geobox.affine.a * (np.arange(width) + 0.5)
    y = top + geobox.affine.e * (np.arange(height) + 0.5)
    inside = np.zeros((height, width), np.bool_)
    shapely.prepare(area)
    for row in range(0, height, SQUARE):
        for column in range(0, width, SQUARE):
            part = np.s_[row : row + SQUARE, column : column + SQUARE]
            xs, ys = x[part[1]], y[part[0]]
            square = shapely.box(xs[0], ys[-1], xs[-1], ys[0])
            if area.contains_properly(square):
                inside[part] = True
            elif area.intersects(square):
                inside[part] = shapely.contains_xy(area, *np.meshgrid(xs, ys))
    return inside
