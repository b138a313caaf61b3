"""Where a granule's pixels lie on the lattice: pixel on pixel, or warped; and what coarser cells are made of.

Geometry only. Coarser cells are made on the lattice, of pixels of the native size in its own CRS (`finer_grid`), so
that a cell is the mean of its own ground whether the granule is warped or not.

The positions of a warp are a function of the whole lattice and the granule, never of the region: nodes are whole
multiples of `NODE` pixels from the lattice's origin. So a region computed alone equals the crop of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from ndvi_scale.kernels.resample import NODE, NODE_UNITS
from ndvi_scale.lattice import PHASE, Window, corner, pixel_place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ndvi_scale.granules import Granule

STRIP: Final = 1024
"""Native rows that are read at a time where coarser cells are made of them: one row of a COG's blocks."""

_FAR: Any = 1 << 40
"""Where a node lies that a CRS has no place for: far outside any granule, and far from overflow."""


@dataclass(frozen=True)
class Nodes:
    """Positions in a granule of every `NODE`-th pixel of the lattice around a window of it."""

    rows: NDArray[np.int64]
    """Shape (nodes down, nodes across); in `NODE_UNITS`, 0 is the centre of the granule's first pixel."""
    columns: NDArray[np.int64]
    start: tuple[int, int]
    """Row and column of the window's first pixel, counted from the first node."""

    def moved(self, row: int, column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns counted from another pixel of the granule."""
        return self.rows - row * NODE_UNITS, self.columns - column * NODE_UNITS


@dataclass(frozen=True)
class Placement:
    """What to read of a granule for a window of a grid, and what becomes of it."""

    native: Window
    """What to read of red and nir."""
    place: Window
    """What that fills of the window, in its pixels."""
    nodes: Nodes | None = None
    """Where the window's pixels lie in the granule; None where pixel is on pixel."""


@lru_cache(maxsize=4096)  # a few kB each; every date of a tile asks the same
def place_granule(grid: GeoBox, window: Window, granule: GeoBox) -> Placement | None:
    """How a granule (its native grid) covers a window of a grid (whole, of its pixel size); None if it does not."""
    if grid.crs == granule.crs and _in_phase(grid, granule):
        return _aligned(grid, window, granule)
    nodes = _nodes(grid, window, granule)
    native = Window(0, 0, *granule.shape).overlap(_reach(nodes, window))
    return native and Placement(native, Window(0, 0, window.height, window.width), nodes)


class Strip(NamedTuple):
    """Rows of the lattice for which a granule is read at once."""

    placed: Placement
    """Where they lie in the granule, in pixels of the native size."""
    window: Window
    """The rows, in the lattice's pixels."""


def source_strips(grid: GeoBox, window: Window, granule: GeoBox) -> list[Strip]:
    """What is read of a granule for a window of the lattice, one after the other; nothing if they lie apart.

    All at once where pixels are of the native size; else strips of whole rows of cells, about `STRIP` native rows
    each. Raises ValueError when the pixels of the lattice are no whole number of native ones.
    """
    factor = cell_factor(grid, granule)
    fine, step = finer_grid(grid, factor), window.height if factor == 1 else max(1, STRIP // factor)
    found = []
    for row in range(0, window.height, step):
        strip = Window(window.row + row, window.column, min(step, window.height - row), window.width)
        placed = place_granule(fine, strip.finer(factor), granule)
        if placed is not None:
            found.append(Strip(placed, strip))
    return found


def has_margin(band: str, margin: int) -> bool:
    """Whether windows of a band are read larger than is needed, and overlap: those of SCL, for mask filters."""
    return band == "scl" and margin > 0


def band_window(granule: Granule, band: str, native: Window, margin: int = 0) -> Window:
    """What is read of a band for a window of the granule's grid: whole pixels of the band's own.

    Of SCL with a margin in its pixels, as far as the file has any: what filters make of a pixel is then the same
    whatever window it is read in.
    """
    own = native.coarser(granule.spread[band])
    if not has_margin(band, margin):
        return own
    return own.grown(margin).overlap(Window(0, 0, *granule.scl.geobox.shape)) or own


def finer_grid(grid: GeoBox, factor: int) -> GeoBox:
    """The same ground in pixels `factor` times as narrow."""
    a, _, c, _, e, f = list(grid.affine)[:6]
    height, width = grid.shape
    return GeoBox((height * factor, width * factor), Affine(a / factor, 0, c, 0, e / factor, f), grid.crs)


def cell_factor(grid: GeoBox, granule: GeoBox) -> int:
    """Native pixels along one pixel of a grid. Raises ValueError if that is not a whole number."""
    ratio = grid.resolution.x / granule.resolution.x
    factor = round(ratio)
    if factor < 1 or abs(ratio - factor) > PHASE:
        raise ValueError(
            f"a pixel of {grid.resolution.x:g} m is no whole number of {granule.resolution.x:g} m pixels"
        )
    return factor


def _in_phase(grid: GeoBox, granule: GeoBox) -> bool:
    """Whether borders of the lattice's pixels are borders of native pixels (both north up, one CRS)."""
    try:
        pixel_place(granule, grid)
    except ValueError:
        return False
    return True


def _aligned(grid: GeoBox, window: Window, granule: GeoBox) -> Placement | None:
    column, row = pixel_place(granule, grid)  # of the grid's origin, in native pixels
    both = window.overlap(Window(-row, -column, *granule.shape))
    return both and Placement(both.moved(row, column), both.moved(-window.row, -window.column))


def _nodes(grid: GeoBox, window: Window, granule: GeoBox) -> Nodes:
    first = window.row // NODE, window.column // NODE
    down = np.arange(first[0], (window.row + window.height - 1) // NODE + 2)
    across = np.arange(first[1], (window.column + window.width - 1) // NODE + 2)
    left, top = corner(grid)
    x = left + grid.affine.a * (NODE * across + 0.5)
    y = top + grid.affine.e * (NODE * down + 0.5)
    xs, ys = transformer(str(grid.crs), str(granule.crs)).transform(*np.meshgrid(x, y))
    left, top = corner(granule)
    return Nodes(
        rows=_units((ys - top) / granule.affine.e - 0.5),
        columns=_units((xs - left) / granule.affine.a - 0.5),
        start=(window.row - first[0] * NODE, window.column - first[1] * NODE),
    )


def _units(position: NDArray[np.float64]) -> NDArray[np.int64]:
    near = np.abs(position) < _FAR / NODE_UNITS  # false for what is infinite
    return np.rint(np.where(near, position * NODE_UNITS, _FAR)).astype(np.int64)


@lru_cache(maxsize=256)
def transformer(source: str, target: str) -> Transformer:
    """From one CRS to another, x before y."""
    return Transformer.from_crs(source, target, always_xy=True)


def _reach(nodes: Nodes, window: Window) -> Window:
    """Native pixels that a window needs: positions are extreme at the borders of what lies between nodes."""
    rows, columns = (_breaks(start, n) for start, n in zip(nodes.start, (window.height, window.width), strict=True))
    low, high = [], []
    for positions in (nodes.rows, nodes.columns):
        down = np.array([_interpolate(positions, row) for row in rows])
        both = np.array([_interpolate(down.T, column) for column in columns])
        low.append(int(both.min()) // NODE_UNITS - 1)
        high.append(int(both.max()) // NODE_UNITS + 3)
    return Window(low[0], low[1], high[0] - low[0], high[1] - low[1])


def _breaks(start: int, size: int) -> list[int]:
    inner = range((start // NODE + 1) * NODE, start + size - 1, NODE)
    return sorted({start, *inner, start + size - 1})


def _interpolate(positions: NDArray[Any], row: int) -> NDArray[np.float64]:
    j, part = divmod(row, NODE)
    return positions[j] * (1 - part / NODE) + positions[j + 1] * (part / NODE)
