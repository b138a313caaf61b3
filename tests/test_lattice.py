"""The lattice: objects cover the array once, lie on the anchor's grid, and windows find their pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import assume, example, given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from ndvi_scale.lattice import (
    SQUARE,
    STRIP,
    Bounds,
    Lattice,
    PerGrid,
    Region,
    Window,
    centres_inside,
    corner,
    distinct,
    fit_lattice,
    in_strips,
    pixel_place,
    to_pixels,
)
from strategies import grids, lattices, pixel_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 1024
TILE = GeoBox((10_980, 10_980), Affine(10, 0, 300_000, 0, -10, 4_900_020), "EPSG:32631")

PixelBox = tuple[float, float, float, float]


def bounds_of(grid: GeoBox, box: PixelBox) -> Bounds:
    """Left, bottom, right, top in metres of a box given in pixels of a grid."""
    left, top, right, bottom = box
    x0, y0, step = grid.affine.c, grid.affine.f, grid.affine.a
    return x0 + step * left, y0 - step * bottom, x0 + step * right, y0 - step * top


def shifted(grid: GeoBox, columns: float, rows: float, shape: tuple[int, int] | None = None) -> GeoBox:
    """A grid whose corner lies so many pixels east and south of another's."""
    affine = grid.affine
    moved = Affine(affine.a, 0, affine.c + columns * affine.a, 0, affine.e, affine.f + rows * affine.e)
    return GeoBox(shape or grid.shape, moved, grid.crs)


def fit_pixels(lattice: Lattice, anchor: GeoBox) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a lattice in pixels of its anchor, which must be whole."""
    x, y = to_pixels(anchor, *corner(lattice.geobox))
    assert x == round(x)
    assert y == round(y)
    return round(x), round(y), round(x) + lattice.geobox.shape.x, round(y) + lattice.geobox.shape.y


# Objects


@given(lattice=lattices())
@example(lattice=Lattice(GeoBox((7, 300), TILE.affine, TILE.crs), 128))
def test_objects_cover_the_array_exactly_once(lattice: Lattice) -> None:
    painted = np.zeros(lattice.geobox.shape.yx, np.uint8)
    rows, columns = lattice.objects
    for iy in range(rows):
        for ix in range(columns):
            place = lattice.window(iy, ix).slices
            assert painted[place].size > 0
            assert max(painted[place].shape) <= lattice.side
            painted[place] += 1
    assert (painted == 1).all()


@given(lattice=lattices())
def test_all_objects_but_the_last_are_whole_chunks(lattice: Lattice) -> None:
    """Zarr puts chunk (iy, ix) at iy * chunk, ix * chunk: slices that disagreed would write two chunks."""
    chunk_y, chunk_x = lattice.object_shape
    height, width = lattice.geobox.shape
    assert (chunk_y, chunk_x) == (min(lattice.side, height), min(lattice.side, width))
    for iy in range(lattice.objects[0]):
        for ix in range(lattice.objects[1]):
            rows, columns = lattice.window(iy, ix).slices
            assert (rows.start, columns.start) == (iy * chunk_y, ix * chunk_x)
            assert rows.stop == min(rows.start + chunk_y, height)
            assert columns.stop == min(columns.start + chunk_x, width)


@given(lattice=lattices())
def test_region_geobox_is_the_ground_of_its_slices(lattice: Lattice) -> None:
    whole = lattice.geobox
    for iy in range(lattice.objects[0]):
        for ix in range(lattice.objects[1]):
            rows, columns = lattice.window(iy, ix).slices
            region = lattice.region_geobox(iy, ix)
            assert region.shape.yx == (rows.stop - rows.start, columns.stop - columns.start)
            assert region.crs == whole.crs
            assert region.resolution == whole.resolution
            assert corner(region) == (
                whole.affine.c + columns.start * whole.affine.a,
                whole.affine.f + rows.start * whole.affine.e,
            )


@given(lattice=lattices(), box=pixel_boxes(empty=True))
def test_objects_within_bounds_are_those_that_share_ground(lattice: Lattice, box: PixelBox) -> None:
    left, top, right, bottom = box
    wanted = set()
    for iy in range(lattice.objects[0]):
        for ix in range(lattice.objects[1]):
            rows, columns = lattice.window(iy, ix).slices
            width = min(right, columns.stop) - max(left, columns.start)
            height = min(bottom, rows.stop) - max(top, rows.start)
            if width > 0 and height > 0:
                wanted.add((iy, ix))
    found = list(lattice.objects_within(bounds_of(lattice.geobox, box)))
    assert found == sorted(wanted)


def test_objects_within_the_whole_are_all_and_beside_it_none() -> None:
    lattice = Lattice(GeoBox((300, 500), TILE.affine, TILE.crs), 128)
    everything = lattice.geobox.boundingbox.bbox
    assert len(list(lattice.objects_within(everything))) == 3 * 4
    left, bottom, right, top = everything
    for beside in (
        (right, bottom, right + 100, top),
        (left - 100, bottom, left, top),
        (left, top, right, top + 100),
        (left, bottom - 100, right, bottom),
    ):
        assert list(lattice.objects_within(beside)) == []


# Fitting


@st.composite
def fits(draw: st.DrawFn, snaps: Sequence[int] = (1, 2, 4)) -> tuple[GeoBox, PixelBox, int, int]:
    """Anchor, box in its pixels, snap, chunk: small chunks and multiples of 1024 that boxes can exceed."""
    snap = draw(st.sampled_from(snaps))
    chunk = draw(
        st.one_of(
            st.integers(1, 60).map(lambda n: n * snap),
            st.sampled_from([n for n in (1024, 2048, 3072, 6144) if n % snap == 0]),
        )
    )
    return draw(grids()), draw(pixel_boxes(reach=draw(st.sampled_from([300, 20_000])))), snap, chunk


@given(fit=fits())
def test_lattice_lies_on_whole_scene_class_pixels_of_the_anchor(fit: tuple[GeoBox, PixelBox, int, int]) -> None:
    anchor, box, snap, chunk = fit
    lattice = fit_lattice(bounds_of(anchor, box), anchor, snap, chunk)
    assert lattice.geobox.crs == anchor.crs
    assert lattice.geobox.resolution == anchor.resolution
    assert lattice.side == chunk
    for edge in fit_pixels(lattice, anchor):
        assert edge % snap == 0
    assert all(slice_.start % snap == 0 for slice_ in lattice.window(*(n - 1 for n in lattice.objects)).slices)


@pytest.mark.parametrize("snap", [3, 6])
def test_snap_that_does_not_divide_a_block_is_kept(snap: int) -> None:
    lattice = fit_lattice(bounds_of(TILE, (2000, 2000, 20_000, 20_000)), TILE, snap, 6144)
    assert all(edge % snap == 0 for edge in fit_pixels(lattice, TILE))


@given(fit=fits())
def test_lattice_covers_the_bounds_and_little_more(fit: tuple[GeoBox, PixelBox, int, int]) -> None:
    """Less than a snap more at every side; on an axis longer than a chunk, less than a block at its start."""
    anchor, box, snap, chunk = fit
    left, top, right, bottom = fit_pixels(fit_lattice(bounds_of(anchor, box), anchor, snap, chunk), anchor)
    block = BLOCK if chunk % BLOCK == 0 else chunk
    for first, last, start, stop in ((left, right, box[0], box[2]), (top, bottom, box[1], box[3])):
        assert first <= start < stop <= last
        assert last - stop < snap
        whole = last - math.floor(start / snap) * snap
        assert start - first < (snap if whole <= chunk else block)


@given(fit=fits())
@example(fit=(TILE, (100, 102, 100 + 1024, 102 + 1024), 2, 1024))
@example(fit=(TILE, (100, 102, 100 + 1026, 102 + 1026), 2, 1024))
def test_long_axis_begins_on_a_block_border_and_a_short_one_with_the_region(
    fit: tuple[GeoBox, PixelBox, int, int],
) -> None:
    anchor, box, snap, chunk = fit
    lattice = fit_lattice(bounds_of(anchor, box), anchor, snap, chunk)
    left, top, right, bottom = fit_pixels(lattice, anchor)
    for first, last, start, stop in ((left, right, box[0], box[2]), (top, bottom, box[1], box[3])):
        least = math.floor(start / snap) * snap
        if math.ceil(stop / snap) * snap - least <= chunk:
            assert (first, last - first <= chunk) == (least, True)
        elif chunk % BLOCK == 0:
            assert first % BLOCK == 0
        else:
            assert first % chunk == 0


@pytest.mark.parametrize("chunk", [1024, 2048, 4096])
def test_no_block_of_the_anchor_is_read_for_two_objects(chunk: int) -> None:
    lattice = fit_lattice(bounds_of(TILE, (1500.25, 3333, 9999.5, 8000)), TILE, 2, chunk)
    left, top, _, _ = fit_pixels(lattice, TILE)
    rows, columns = lattice.objects
    assert rows > 1
    assert columns > 1
    row_blocks = [
        {(top + n) // BLOCK for n in range(s.start, s.stop)}
        for s in (lattice.window(i, 0).slices[0] for i in range(rows))
    ]
    column_blocks = [
        {(left + n) // BLOCK for n in range(s.start, s.stop)}
        for s in (lattice.window(0, i).slices[1] for i in range(columns))
    ]
    for blocks in (row_blocks, column_blocks):
        assert sum(map(len, blocks)) == len(set.union(*blocks))


def test_a_hair_over_a_border_does_not_drag_in_another_row() -> None:
    """Reprojected bounds miss the borders they came from by 1e-9 m or so."""
    hair = 1e-7
    left, bottom, right, top = bounds_of(TILE, (20, 40, 120, 240))
    lattice = fit_lattice((left - hair, bottom - hair, right + hair, top + hair), TILE, 2, 512)
    assert fit_pixels(lattice, TILE) == (20, 40, 120, 240)


def test_whole_tile_is_a_lattice_of_its_own_grid() -> None:
    lattice = fit_lattice(TILE.boundingbox.bbox, TILE, 2, 2048)
    assert lattice.geobox == TILE
    assert lattice.objects == (6, 6)
    assert lattice.object_shape == (2048, 2048)


def test_a_point_is_one_scene_class_pixel() -> None:
    x, y = 300_000 + 1234.5, 4_900_020 - 987.6
    lattice = fit_lattice((x, y, x, y), TILE, 2, 2048)
    assert fit_pixels(lattice, TILE) == (122, 98, 124, 100)


# Windows


@given(
    native=grids(sides=(1, 120)), place=st.tuples(st.integers(-150, 150), st.integers(-150, 150)), data=st.data()
)
def test_pixel_place_goes_both_ways(native: GeoBox, place: tuple[int, int], data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 150), st.integers(1, 150)))
    geobox = shifted(native, *place, shape)
    assert pixel_place(native, geobox) == place
    assert pixel_place(geobox, native) == (-place[0], -place[1])


@pytest.mark.parametrize(
    "place",
    [(0.5, 0), (0, 0.5), (3.01, 5), (3, 4.999)],
    ids=["half a pixel east", "half a pixel south", "a hundredth", "nearly whole"],
)
def test_grids_that_are_out_of_phase_are_told(place: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="out of phase by"):
        pixel_place(TILE, shifted(TILE, *place))


def test_a_hair_of_phase_is_forgiven() -> None:
    assert pixel_place(TILE, shifted(TILE, 3 + 1e-8, 5 - 1e-8, (10, 20))) == (3, 5)


WINDOWS = st.builds(Window, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 60), st.integers(1, 60))


def pixels(window: Window | None) -> set[tuple[int, int]]:
    if window is None:
        return set()
    rows, columns = window.slices
    return {(row, column) for row in range(rows.start, rows.stop) for column in range(columns.start, columns.stop)}


@given(one=WINDOWS, other=WINDOWS)
def test_overlap_is_what_two_windows_share(one: Window, other: Window) -> None:
    assert pixels(one.overlap(other)) == pixels(one) & pixels(other)


@given(window=WINDOWS, factor=st.integers(1, 7), rows=st.integers(-9, 9), columns=st.integers(-9, 9))
def test_windows_on_other_grids_and_elsewhere(window: Window, factor: int, rows: int, columns: int) -> None:
    assert pixels(window.coarser(factor)) == {(y // factor, x // factor) for y, x in pixels(window)}
    assert window.finer(factor).coarser(factor) == window
    assert pixels(window.finer(factor)) >= {(y * factor, x * factor) for y, x in pixels(window)}
    assert pixels(window.moved(rows, columns)) == {(y + rows, x + columns) for y, x in pixels(window)}


# The AOI, pixel by pixel


@st.composite
def areas(draw: st.DrawFn) -> list[tuple[float, float]]:
    """Corners of a polygon round a grid's middle, in pixels; each at an odd hundredth, so on no pixel's centre."""
    count = draw(st.integers(3, 8))
    turns = sorted(draw(st.lists(st.integers(0, 359), min_size=count, max_size=count, unique=True)))
    reach = draw(st.lists(st.integers(5, 200), min_size=count, max_size=count))
    return [
        (90 + r * math.cos(math.radians(t)) + 0.0137, 70 + r * math.sin(math.radians(t)) + 0.0071)
        for t, r in zip(turns, reach, strict=True)
    ]


@given(corners=areas(), hole=st.booleans(), data=st.data())
def test_centres_inside_is_point_by_point_and_the_same_in_any_window(
    corners: list[tuple[float, float]], *, hole: bool, data: st.DataObject
) -> None:
    grid = GeoBox((2 * SQUARE + 13, 3 * SQUARE - 5), TILE.affine, TILE.crs)
    area = shapely.Polygon([(grid.affine.c + 10 * x, grid.affine.f - 10 * y) for x, y in corners])
    assume(area.is_valid)
    if hole:
        area = area.difference(shapely.Point(grid.affine.c + 903, grid.affine.f - 707).buffer(333))
    whole = centres_inside(grid, area)
    x = grid.affine.c + 10 * (np.arange(grid.shape.x) + 0.5)
    y = grid.affine.f - 10 * (np.arange(grid.shape.y) + 0.5)
    np.testing.assert_array_equal(whole, shapely.contains_xy(area, *np.meshgrid(x, y)))
    top, left = data.draw(st.integers(0, grid.shape.y - 1)), data.draw(st.integers(0, grid.shape.x - 1))
    np.testing.assert_array_equal(centres_inside(grid[top:, left:], area), whole[top:, left:])


def test_a_centre_on_the_edge_of_the_aoi_is_judged_alike_in_every_window() -> None:
    area = shapely.box(300_005, 4_899_000, 300_645, 4_900_020)
    from_the_edge = centres_inside(GeoBox((8, 100), TILE.affine, TILE.crs), area)
    from_before = centres_inside(shifted(TILE, -1, 0, (8, 101)), area)
    np.testing.assert_array_equal(from_before[:, 1:], from_the_edge)


# The order of regions


def places(rows: int, columns: int, layers: int = 1) -> list[Region]:
    return [Region(layer, iy, ix) for layer in range(layers) for iy in range(rows) for ix in range(columns)]


def lattice_of(chunk: int) -> Lattice:
    return Lattice(GeoBox((100_000, 100_000), TILE.affine, TILE.crs), chunk)


def test_a_strip_is_done_before_the_next() -> None:
    found = [(r.iy, r.ix) for r in in_strips(places(2, 5), lattice_of(STRIP // 2))]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3), (0, 4), (1, 4)]


def test_a_chunk_wider_than_a_strip_is_one() -> None:
    found = [(r.iy, r.ix) for r in in_strips(places(2, 2), lattice_of(2 * STRIP))]
    assert found == [(0, 0), (1, 0), (0, 1), (1, 1)]


@given(
    chunk=st.integers(1, 64).map(lambda n: 256 * n), given_order=st.permutations(places(5, 6, 3)), data=st.data()
)
def test_every_region_comes_once_and_layers_one_after_another(
    chunk: int, given_order: list[Region], data: st.DataObject
) -> None:
    some = given_order[: data.draw(st.integers(0, len(given_order)))]
    found = in_strips(some, lattice_of(chunk))
    assert sorted(found) == sorted(some)
    assert [r.layer for r in found] == sorted(r.layer for r in found)
    whole = in_strips(places(5, 6, 3), lattice_of(chunk))
    assert found == [region for region in whole if region in set(some)]  # whatever is done already


def test_what_is_made_per_grid_is_made_once_a_grid_object_and_outlives_the_callers_names() -> None:
    made: list[GeoBox] = []

    def shape_of(grid: GeoBox) -> tuple[int, int]:
        made.append(grid)
        return grid.shape.yx

    def grid(side: int) -> GeoBox:
        return GeoBox((side, side), Affine(10, 0, 0, 0, -10, 0), "EPSG:32631")

    found, own = PerGrid(shape_of), grid(5)
    assert [found[own], found[own]] == [(5, 5), (5, 5)]
    assert made == [own]
    # Grids that nobody else holds: an id that is given again must not find what was made of another.
    assert [found[grid(side)] for side in range(1, 200)] == [(side, side) for side in range(1, 200)]
    assert distinct([own, own, grid(7)])[0] is own
    assert len(distinct([own, own, grid(7)])) == 2
