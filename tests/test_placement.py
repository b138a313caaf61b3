"""Where a granule's pixels lie on a lattice: crop, cells and warp, each the same for any cut of the lattice."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from ndvi_scale.kernels.resample import NODE, NODE_UNITS
from ndvi_scale.lattice import Window
from ndvi_scale.placement import STRIP, Placement, cell_factor, finer_grid, place_granule, source_strips
from strategies import grids

TILE = GeoBox((10_980, 10_980), Affine(10, 0, 300_000, 0, -10, 4_900_020), "EPSG:32631")


def grid_at(column: float, row: float, shape: tuple[int, int], step: float = 10) -> GeoBox:
    """A lattice whose corner lies so many pixels of 10 m east and south of the tile's."""
    affine = Affine(step, 0, 300_000 + 10 * column, 0, -step, 4_900_020 - 10 * row)
    return GeoBox(shape, affine, TILE.crs)


def whole(grid: GeoBox) -> Window:
    return Window(0, 0, *grid.shape)


# Native pixels


@given(
    granule=grids(sides=(1, 120)),
    place=st.tuples(st.integers(-150, 150), st.integers(-150, 150)),
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
)
def test_native_pixels_are_those_that_both_share(
    granule: GeoBox, place: tuple[int, int], shape: tuple[int, int]
) -> None:
    column, row = place
    step = granule.affine.a
    affine = Affine(step, 0, granule.affine.c + step * column, 0, -step, granule.affine.f - step * row)
    grid = GeoBox(shape, affine, granule.crs)
    rows = sorted(set(range(granule.shape.y)) & set(range(row, row + shape[0])))
    columns = sorted(set(range(granule.shape.x)) & set(range(column, column + shape[1])))
    placed = place_granule(grid, whole(grid), granule)
    if not rows or not columns:
        assert placed is None
        return
    native = Window(rows[0], columns[0], len(rows), len(columns))
    assert placed == Placement(native, native.moved(-row, -column))


@pytest.mark.parametrize("step", [5, 15, 25, 10.5])
def test_pixels_that_are_no_whole_number_of_native_ones(step: float) -> None:
    with pytest.raises(ValueError, match="no whole number"):
        source_strips(grid_at(0, 0, (10, 10), step), Window(0, 0, 10, 10), TILE)
    assert cell_factor(grid_at(0, 0, (1, 1), 60), TILE) == 6


@pytest.mark.slow
@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:2154"])
@given(factor=st.integers(1, 7), rows=st.integers(1, 900), first=st.integers(0, 300))
def test_strips_are_all_rows_of_cells_and_none_is_large(crs: str, factor: int, rows: int, first: int) -> None:
    grid = lattice_in(crs, (1_300, 40), 10 * factor)
    found = source_strips(grid, Window(first, 3, rows, 30), TILE)
    seen = [row for _, strip in found for row in range(strip.row, strip.row + strip.height)]
    assert seen == list(range(first, first + rows))
    assert len(found) == (1 if factor == 1 else -(-rows // (STRIP // factor)))
    for placed, strip in found:
        native = placed.native
        assert (strip.column, strip.width) == (3, 30)
        assert native.overlap(Window(0, 0, *TILE.shape)) == native
        assert placed == place_granule(finer_grid(grid, factor), strip.finer(factor), TILE)


# Warps


CRSS = ("EPSG:32630", "EPSG:32632", "EPSG:2154", "EPSG:3035")
"""The zones beside, Lambert-93, and Europe's equal-area projection, turned by several degrees here."""


def lattice_in(crs: str, shape: tuple[int, int], step: float = 10) -> GeoBox:
    """A lattice around the middle of the tile."""
    x, y = Transformer.from_crs(TILE.crs.to_epsg(), crs, always_xy=True).transform(354_900, 4_845_120)
    left, top = round(x / step - shape[1] / 2) * step, round(y / step + shape[0] / 2) * step
    return GeoBox(shape, Affine(step, 0, left, 0, -step, top), crs)


def positions(placed: Placement, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel of a window in the granule, in pixels, read off the nodes."""
    nodes = placed.nodes
    assert nodes is not None
    j, i = nodes.start[0] + np.arange(window.height), nodes.start[1] + np.arange(window.width)
    b, a = (j % NODE / NODE)[:, None], (i % NODE / NODE)[None, :]
    j, i = (j // NODE)[:, None], (i // NODE)[None, :]
    found = []
    for node in (nodes.rows / NODE_UNITS, nodes.columns / NODE_UNITS):
        north = node[j, i] * (1 - a) + node[j, i + 1] * a
        south = node[j + 1, i] * (1 - a) + node[j + 1, i + 1] * a
        found.append(north * (1 - b) + south * b)
    return found[0], found[1]


@pytest.mark.parametrize("crs", CRSS)
def test_positions_are_those_of_the_exact_transform(crs: str) -> None:
    step = 10
    grid = lattice_in(crs, (700, 700), step)
    placed = place_granule(grid, whole(grid), TILE)
    assert placed is not None
    rows, columns = positions(placed, whole(grid))
    x, y = np.meshgrid(np.arange(700) + 0.5, np.arange(700) + 0.5)
    x, y = grid.affine.c + step * x, grid.affine.f - step * y
    x, y = Transformer.from_crs(crs, TILE.crs.to_epsg(), always_xy=True).transform(x, y)
    error = max(
        np.abs(rows - ((4_900_020 - y) / step - 0.5)).max(), np.abs(columns - ((x - 300_000) / step - 0.5)).max()
    )
    assert error < 0.001, error


def test_positions_are_exact_enough_near_the_pole() -> None:
    """33XWJ lies at 80 degrees north, where zones turn fastest."""
    granule = GeoBox((10_980, 10_980), Affine(10, 0, 499_980, 0, -10, 8_900_040), "EPSG:32633")
    convert = Transformer.from_crs(32633, 32635, always_xy=True)
    x, y = convert.transform(550_000, 8_850_000)
    grid = GeoBox((512, 512), Affine(10, 0, round(x, -1), 0, -10, round(y, -1)), "EPSG:32635")
    placed = place_granule(grid, whole(grid), granule)
    assert placed is not None
    rows, columns = positions(placed, whole(grid))
    x, y = np.meshgrid(np.arange(512) + 0.5, np.arange(512) + 0.5)
    x, y = convert.transform(grid.affine.c + 10 * x, grid.affine.f - 10 * y, direction="INVERSE")
    assert np.abs(rows - ((8_900_040 - y) / 10 - 0.5)).max() < 0.05
    assert np.abs(columns - ((x - 499_980) / 10 - 0.5)).max() < 0.05


@pytest.mark.slow
@given(
    crs=st.sampled_from(CRSS),
    cut=st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(1, 200), st.integers(1, 200)),
)
def test_a_window_has_the_positions_of_the_whole_and_reads_what_they_need(
    crs: str, cut: tuple[int, int, int, int]
) -> None:
    grid = lattice_in(crs, (700, 700))
    window = Window(*cut)
    all_of_it, part = place_granule(grid, whole(grid), TILE), place_granule(grid, window, TILE)
    assert all_of_it is not None
    assert part is not None
    rows, columns = positions(part, window)
    for found, of_whole in zip((rows, columns), positions(all_of_it, whole(grid)), strict=True):
        np.testing.assert_array_equal(found, of_whole[window.slices])
    native = part.native
    assert native.row <= np.floor(rows.min())
    assert native.column <= np.floor(columns.min())
    assert native.row + native.height >= np.floor(rows.max()) + 2
    assert native.column + native.width >= np.floor(columns.max()) + 2
    assert native.height <= np.ptp(rows) + 6
    assert native.width <= np.ptp(columns) + 6
    assert part.place == Window(0, 0, window.height, window.width)


def test_a_granule_far_away_is_not_read() -> None:
    grid = lattice_in("EPSG:32630", (100, 100))
    assert place_granule(grid, whole(grid), GeoBox(TILE.shape, TILE.affine, "EPSG:32633")) is None
    fiji = GeoBox(TILE.shape, TILE.affine, "EPSG:32701")
    assert place_granule(grid, whole(grid), fiji) is None


def test_out_of_phase_in_one_crs_is_a_warp() -> None:
    placed = place_granule(grid_at(3.5, 4.25, (30, 30)), Window(0, 0, 30, 30), TILE)
    assert placed is not None
    assert placed.nodes is not None
    rows, columns = positions(placed, Window(0, 0, 30, 30))
    np.testing.assert_allclose(rows[:, 0], 4.25 + np.arange(30), atol=1e-4)
    np.testing.assert_allclose(columns[0], 3.5 + np.arange(30), atol=1e-4)


def test_across_the_antimeridian() -> None:
    """Zone 60 and zone 1 meet at 180 degrees; a granule of zone 1 lies east of the middle of zone 60."""
    granule = GeoBox((10_980, 10_980), Affine(10, 0, 200_000, 0, -10, 8_100_040), "EPSG:32701")
    x, y = Transformer.from_crs(32701, 32760, always_xy=True).transform(254_900, 8_045_140)
    grid = GeoBox((200, 200), Affine(10, 0, round(x, -1), 0, -10, round(y, -1)), "EPSG:32760")
    placed = place_granule(grid, whole(grid), granule)
    assert placed is not None
    assert placed.native.overlap(Window(5_480, 5_480, 300, 300)) is not None
