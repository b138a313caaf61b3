"""Coarser and warped pixels against an independent oracle, and what they must never do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from ndvi_scale.kernels import MAX_DN
from ndvi_scale.kernels.resample import NODE, NODE_UNITS, coarsen, warp
from ndvi_scale.sentinel2 import MASKS, scl_table
from strategies import Scene, scenes

DEFAULT = scl_table(MASKS["default"])


def bands_of(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return scene.red, scene.nir, scene.classes


def rules_of(scene: Scene) -> oracle.Rules:
    return oracle.Rules(tuple(scene.dropped))


def usable(bands: tuple[np.ndarray, ...], scene: Scene) -> np.ndarray:
    return oracle.usable(tuple(band.astype(np.int64) for band in bands), rules_of(scene))  # type: ignore[arg-type]


# Cells


@given(scene=scenes(factors=(1, 2)), factor=st.integers(1, 5))
def test_cells_are_those_of_the_oracle(scene: Scene, factor: int) -> None:
    height, width = (side // factor * factor for side in scene.red.shape)
    bands = tuple(band[:height, :width] for band in bands_of(scene))
    made = coarsen(bands, scene.table, factor)  # type: ignore[arg-type]
    wanted = oracle.cells(tuple(b.astype(np.int64) for b in bands), rules_of(scene), factor)  # type: ignore[arg-type]
    kept = usable(made, scene)
    np.testing.assert_array_equal(kept, oracle.usable(wanted, rules_of(scene)))
    for one, other in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(one[kept], other[kept])


@given(scene=scenes(factors=(1,)))
def test_cells_of_one_pixel_are_the_pixels_where_usable(scene: Scene) -> None:
    made = coarsen(bands_of(scene), scene.table, 1)
    kept = usable(made, scene)
    np.testing.assert_array_equal(kept, usable(bands_of(scene), scene))
    for one, other in zip(made, bands_of(scene), strict=True):
        np.testing.assert_array_equal(one[kept], other[kept])


@pytest.mark.parametrize(
    ("changed", "dn", "scl"),
    [
        ({}, 1000, 4),
        ({"red": 0}, 0, 4),
        ({"nir": 0}, 0, 4),
        ({"red": 65535}, 65535, 4),
        ({"nir": 40_000}, MAX_DN + 1, 4),
        ({"scl": 9}, 1000, 9),
        ({"scl": 0}, 1000, 0),
        ({"scl": 5}, 1000, 4),
    ],
)
def test_one_bad_pixel_spoils_its_cell_and_says_why(changed: dict[str, int], dn: int, scl: int) -> None:
    red = np.full((4, 4), 1000, np.uint16)
    nir, classes = np.full((4, 4), 3000, np.uint16), np.full((4, 4), 4, np.uint8)
    for name, value in changed.items():
        {"red": red, "nir": nir, "scl": classes}[name][0, 1] = value
    made = coarsen((red, nir, classes), DEFAULT, 2)
    assert made[2][0, 0] == scl
    if dn == 1000 and not {"red", "nir"} & set(changed):
        assert (made[0][0, 0], made[1][0, 0]) == (1000, 3000)
    else:
        assert made[0][0, 0] == dn
    assert [int(band[1, 1]) for band in made] == [1000, 3000, 4]


def test_halves_go_to_the_even() -> None:
    red = np.array([[1, 2], [1, 2], [2, 3], [2, 3]], np.uint16)
    made = coarsen((red, red, np.full((4, 2), 4, np.uint8)), DEFAULT, 2)
    assert made[0].ravel().tolist() == [2, 2]


# Warps


def nodes_of(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.rint(np.asarray(p) * NODE_UNITS).astype(np.int64) for p in (rows, columns))  # type: ignore[return-value]


@st.composite
def turned(draw: st.DrawFn, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of a turned, stretched and moved grid over a scene, two by two."""
    height, width = scene.red.shape
    corner = st.floats(-0.3, 1.3)
    rows = np.array(draw(st.lists(corner, min_size=4, max_size=4))).reshape(2, 2) * height
    columns = np.array(draw(st.lists(corner, min_size=4, max_size=4))).reshape(2, 2) * width
    return nodes_of(rows, columns)


def oracle_positions(nodes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """In 256ths, by whole numbers of Python."""
    out = np.zeros(shape, np.int64)
    for y in range(shape[0]):
        for x in range(shape[1]):
            total = (
                int(nodes[0, 0]) * (64 - y) * (64 - x)
                + int(nodes[0, 1]) * (64 - y) * x
                + int(nodes[1, 0]) * y * (64 - x)
                + int(nodes[1, 1]) * y * x
            )
            out[y, x] = (2 * total + 2**20) // 2**21
    return out


@given(scene=scenes(factors=(1, 2)), data=st.data())
def test_warps_are_those_of_the_oracle(scene: Scene, data: st.DataObject) -> None:
    nodes = data.draw(turned(scene))
    shape = (23, 31)
    made = warp(bands_of(scene), scene.table, nodes, (0, 0), shape)
    where = oracle_positions(nodes[0], shape), oracle_positions(nodes[1], shape)
    plain = tuple(band.astype(np.int64) for band in bands_of(scene))
    wanted = oracle.warped(plain, rules_of(scene), where)  # type: ignore[arg-type]
    kept = usable(made, scene)
    np.testing.assert_array_equal(kept, oracle.usable(wanted, rules_of(scene)))
    for one, other in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(one[kept], other[kept])


@given(scene=scenes(factors=(1, 2)), data=st.data())
def test_any_part_of_a_warp_is_that_part(scene: Scene, data: st.DataObject) -> None:
    rows = np.linspace(-3, scene.red.shape[0] + 5, 3)[:, None] + np.array([0.1, -0.7, 0.4])
    columns = np.linspace(-2, scene.red.shape[1] + 2, 3)[None, :] + np.array([[0.3], [0.0], [-0.9]])
    nodes = nodes_of(rows, columns)
    top, left = data.draw(st.tuples(st.integers(0, 127), st.integers(0, 127)))
    height, width = data.draw(st.integers(1, 128 - top)), data.draw(st.integers(1, 128 - left))
    whole = warp(bands_of(scene), scene.table, nodes, (0, 0), (128, 128))
    part = warp(bands_of(scene), scene.table, nodes, (top, left), (height, width))
    for one, other in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one, other[top : top + height, left : left + width])


@given(scene=scenes(factors=(1, 2)), data=st.data())
def test_nothing_mixes_with_what_is_not_usable(scene: Scene, data: st.DataObject) -> None:
    """Whatever stands in pixels that are not usable, the others come out the same, and within their range."""
    nodes = data.draw(turned(scene))
    bands, bad = bands_of(scene), ~usable(bands_of(scene), scene)
    changed = tuple(band.copy() for band in bands)
    changed[0][bad], changed[1][bad], changed[2][bad] = 0, 65535, 0
    one = warp(bands, scene.table, nodes, (0, 0), (40, 40))
    other = warp(changed, scene.table, nodes, (0, 0), (40, 40))  # type: ignore[arg-type]
    kept = usable(one, scene)
    np.testing.assert_array_equal(kept, usable(other, scene))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a[kept], b[kept])
    good = ~bad
    if kept.any():
        for band, source in zip(one[:2], bands[:2], strict=True):
            assert source[good].min() <= band[kept].min()
            assert band[kept].max() <= source[good].max()


@given(scene=scenes(factors=(1, 2)))
def test_a_warp_onto_itself_changes_nothing(scene: Scene) -> None:
    rows, columns = np.array([[0, 0], [NODE, NODE]]), np.array([[0, NODE], [0, NODE]])
    shape = tuple(min(side, NODE) for side in scene.red.shape)
    made = warp(bands_of(scene), scene.table, nodes_of(rows, columns), (0, 0), shape)  # type: ignore[arg-type]
    for one, other in zip(made, bands_of(scene), strict=True):
        np.testing.assert_array_equal(one, other[: shape[0], : shape[1]])


def test_a_warp_says_why_a_pixel_is_not_usable() -> None:
    """The reason is that of the nearest pixel, so that counters mean what they say."""
    red = np.array([[0, 65535, 40_000, 500]], np.uint16)
    bands = (red, np.full((1, 4), 3000, np.uint16), np.array([[4, 4, 4, 9]], np.uint8))
    nodes = nodes_of(np.zeros((2, 2)), np.array([[-1.2, 62.8], [-1.2, 62.8]]))
    made = warp(bands, DEFAULT, nodes, (0, 0), (1, 7))
    assert made[0][0].tolist() == [0, 0, 65535, 40_000, 500, 0, 0]
    assert made[2][0].tolist() == [0, 4, 4, 4, 9, 0, 0]
