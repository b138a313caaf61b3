"""Mask filters on plain arrays: worked cases, and the kernel against scipy's footprints."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from ndvi_scale.kernels import ADDED, CLASS_BITS, NO_CLASS, REMOVED, USE
from ndvi_scale.kernels.morphology import MAX_RADIUS, filter_classes, plain_classes
from ndvi_scale.masks import SceneMask, scene_mask

CLOUD, LAND, WATER, NOTHING = 9, 4, 6, 0


def run(scl: np.ndarray, mask: SceneMask) -> np.ndarray:
    return filter_classes(scl.astype(np.uint8), mask.table, mask.steps)


def masked(scl: np.ndarray, filters: str, mask: str = "default") -> np.ndarray:
    """Where pixels are not used after filters."""
    rules = scene_mask(mask, filters)
    return (rules.table[run(scl, rules)] & USE) == 0


def land(height: int = 21, width: int = 21) -> np.ndarray:
    return np.full((height, width), LAND)


def disk(shape: tuple[int, int], middle: tuple[int, int], radius: int) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 <= radius**2


def speckled(seed: int, shape: tuple[int, int], classes: list[int]) -> np.ndarray:
    """Patches of classes, and single pixels in them."""
    draw = np.random.default_rng(seed)
    patches = draw.choice(classes, (shape[0] // 6 + 1, shape[1] // 6 + 1))
    scl = np.kron(patches, np.ones((6, 6), int))[: shape[0], : shape[1]]
    return np.where(draw.random(shape) < 0.05, draw.choice(classes, shape), scl).astype(np.uint8)


filters_drawn = st.lists(
    st.tuples(st.sampled_from(["opening", "closing", "dilation", "erosion"]), st.integers(1, 9)),
    min_size=1,
    max_size=3,
)


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    classes=st.lists(st.integers(0, 255), min_size=1, max_size=8),
    filters=filters_drawn,
    more=st.frozensets(st.integers(0, 11)),
    cloud=st.frozensets(st.sampled_from(oracle.CLOUDS), min_size=1),
)
def test_the_kernel_is_scipy(
    seed: int,
    shape: tuple[int, int],
    classes: list[int],
    filters: list[tuple[str, int]],
    more: frozenset[int],
    cloud: frozenset[int],
) -> None:
    """Any classes, no data and values that are none among them, any mask, filters, order and radius."""
    scl = speckled(seed, shape, [*classes, LAND, CLOUD])
    mask = scene_mask(more | cloud, filters)
    truth = oracle.filtered(scl, sorted(mask.dropped), mask.filters)
    found = run(scl, mask)
    known = (scl > 0) & (scl <= 11)
    np.testing.assert_array_equal((found & ADDED) * known != 0, (truth == oracle.DROPPED) & known)
    np.testing.assert_array_equal((found & REMOVED) * known != 0, truth == oracle.KEPT)
    np.testing.assert_array_equal(plain_classes(found), np.where(scl <= 11, scl, NO_CLASS))
    usable = (truth <= 11) & ~np.isin(truth, sorted(mask.dropped))
    np.testing.assert_array_equal((mask.table[found] & USE) != 0, usable)


@pytest.mark.parametrize("radius", [1, 2, 5, 25, 100, MAX_RADIUS])
def test_a_pixel_becomes_a_disk(radius: int) -> None:
    side = 2 * radius + 9
    scl, middle = land(side, side), (radius + 4, radius + 3)
    scl[middle] = CLOUD
    found = filter_classes(scl.astype(np.uint8), scene_mask("default", "dilation:1").table, [(True, radius)])
    np.testing.assert_array_equal((found & ADDED != 0) | (scl == CLOUD), disk(scl.shape, middle, radius))


@pytest.mark.parametrize("radius", [0, -1, MAX_RADIUS + 1])
def test_a_radius_that_bytes_do_not_hold(radius: int) -> None:
    with pytest.raises(ValueError, match=f"radius {radius} cannot be: give 1 to {MAX_RADIUS}"):
        filter_classes(land().astype(np.uint8), scene_mask("default", "dilation:1").table, [(True, radius)])


def test_an_opening_takes_away_what_is_small_and_leaves_what_is_not() -> None:
    scl = land()
    large = np.logical_or.reduce([disk(scl.shape, (row, 13), 2) for row in range(8, 15)])
    scl[large] = CLOUD
    scl[2, 2] = scl[2, 8] = scl[3, 8] = CLOUD
    np.testing.assert_array_equal(masked(scl, "opening:2"), large)


def test_a_closing_fills_holes_and_leaves_the_outside() -> None:
    scl, large = land(), disk((21, 21), (10, 10), 6)
    scl[large] = CLOUD
    scl[10, 10] = scl[8, 12] = LAND
    np.testing.assert_array_equal(masked(scl, "closing:2"), large)


def test_the_order_is_the_one_given() -> None:
    scl = land()
    scl[10, 10] = CLOUD
    assert not masked(scl, "erosion:1,dilation:3").any()
    np.testing.assert_array_equal(masked(scl, "dilation:3,erosion:3"), scl == CLOUD)


@pytest.mark.parametrize("filters", ["dilation:4", "erosion:4", "opening:4", "closing:4", "opening:1,dilation:9"])
def test_all_of_one_kind_stays_what_it_is(filters: str) -> None:
    """Beyond the array there is neither cloud to come in nor clear ground to eat at the edge."""
    assert not masked(land(), filters).any()
    assert masked(np.full((7, 30), CLOUD), filters).all()
    assert masked(np.zeros((7, 30), int), filters).all()


def test_no_data_neither_grows_nor_shrinks_cloud() -> None:
    scl = land(9, 30)
    scl[:, :10] = CLOUD
    scl[:, 10:15] = NOTHING
    dropped = (scl == CLOUD) | (scl == NOTHING)
    np.testing.assert_array_equal(masked(scl, "erosion:5"), dropped)  # clear ground begins 6 pixels off
    np.testing.assert_array_equal(masked(scl, "dilation:5"), dropped)
    np.testing.assert_array_equal(masked(scl, "dilation:6")[:, 15], np.ones(9, bool))  # and is reached across
    assert not masked(scl, "erosion:6")[:, 9].any()


@pytest.mark.parametrize("value", [0, 12, 15, 32, 36, 64, 73, 255])
def test_what_is_no_class_takes_no_part(value: int) -> None:
    """Neither may a value in the file look like one that a filter has marked."""
    scl = land(5, 5)
    scl[2, 2] = value
    mask = scene_mask("default", "dilation:2")
    found = run(scl, mask)
    assert found[2, 2] == (NO_CLASS if value else 0)
    assert mask.table[found[2, 2]] & USE == 0
    assert (np.delete(found.ravel(), 12) == LAND).all()
    assert plain_classes(found)[2, 2] == (NO_CLASS if value else 0)


def test_other_classes_that_are_dropped_neither_grow_nor_block() -> None:
    scl = land(1, 12)
    scl[0, :3], scl[0, 3:5] = CLOUD, WATER
    np.testing.assert_array_equal(masked(scl, "dilation:4", "land")[0], [1] * 7 + [0] * 5)
    np.testing.assert_array_equal(masked(scl, "erosion:1", "land")[0], [1, 1, 0, 1, 1] + [0] * 7)
    assert not masked(scl, "dilation:4", "3")[0].any()  # cloud that is not dropped does not grow


def test_snow_grows_only_where_it_is_dropped() -> None:
    scl = land(1, 9)
    scl[0, 4] = 11
    assert not masked(scl, "dilation:2").any()
    assert masked(scl, "dilation:2", "snow-free").sum() == 5


def test_classes_can_still_be_counted() -> None:
    scl = land()
    scl[10, 10], scl[3, 3] = CLOUD, 8
    found = run(scl, scene_mask("default", "opening:1"))
    np.testing.assert_array_equal(found & CLASS_BITS, scl)
    assert found[10, 10] == CLOUD | REMOVED


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (1, 1), (1, 300), (300, 1)])
def test_any_shape(shape: tuple[int, int]) -> None:
    scl = np.full(shape, CLOUD, np.uint8)
    scl[shape[0] // 2 :, shape[1] // 2 :] = LAND
    mask = scene_mask("default", "opening:2,dilation:5")
    found = run(scl, mask)
    assert found.shape == shape
    truth = oracle.filtered(scl, sorted(mask.dropped), mask.filters) if scl.size else scl
    np.testing.assert_array_equal(found & ADDED != 0, truth == oracle.DROPPED)


def test_the_input_is_left_alone_and_need_not_be_contiguous() -> None:
    scl = speckled(1, (40, 60), [LAND, CLOUD, NOTHING])
    kept, mask = scl.copy(), scene_mask("default", "closing:2")
    np.testing.assert_array_equal(run(scl[::2, ::3], mask), run(scl[::2, ::3].copy(), mask))
    np.testing.assert_array_equal(scl, kept)


@given(seed=st.integers(0, 2**32 - 1), filters=filters_drawn, row=st.integers(0, 60), column=st.integers(0, 60))
def test_a_window_with_its_margin_is_the_crop_of_the_whole(
    seed: int, filters: list[tuple[str, int]], row: int, column: int
) -> None:
    mask = scene_mask("snow-free", filters)
    scl = speckled(seed, (90, 90), [LAND, LAND, CLOUD, 3, 11, NOTHING, WATER])
    whole = run(scl, mask)
    top, left = max(0, row - mask.margin), max(0, column - mask.margin)
    window = np.s_[row : row + 30, column : column + 30]
    read = scl[top : row + 30 + mask.margin, left : column + 30 + mask.margin]
    found = run(read, mask)[row - top : row - top + 30, column - left : column - left + 30]
    np.testing.assert_array_equal(found, whole[window])
